"""Exceptions of this package; every message says what was expected, what was given, and what to do about it."""


class ScfgError(ValueError):
    """Base class of the errors that a caller of this package can cause."""


class SettingsError(ScfgError):
    """A setting is out of range, or a name is not known."""


class ShapeError(ScfgError):
    """A tensor does not have the shape that its role requires."""
