"""What a caller can get wrong, as types: each message says what was expected, what came, and what to do."""


class ScfgError(ValueError):
    """Base of every error that a caller of this package can cause."""


class SettingsError(ScfgError):
    """A setting is outside its range, or a name is not known."""


class ShapeError(ScfgError):
    """A tensor does not have the shape that its role needs."""


def expect(holds: bool, error: type[ScfgError], expected: str, came: object, remedy: str) -> None:
    """Raise `error` unless `holds`: "expected …, got …: …"."""
    if not holds:
        raise error(f"expected {expected}, got {came}: {remedy}")
