"""What joins a page to its result: the questions asked, and the key that voters must not see."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scfg_core import ScfgError

QUESTIONS = {"alignment": "fits the text better", "quality": "looks better"}
"""The two aspects of the paper's Table 1, by the names that the page gives them."""

SIDES = LEFT, RIGHT = "left", "right"
SAME = "same"
"""The answer of a voter who sees no difference."""


class PreferenceError(ScfgError):
    """A page cannot be made, or votes cannot be counted."""


@dataclass(frozen=True)
class Key:
    """Which picture is whose.

    study   names the page; its votes carry it.
    arms    (A, B).
    scale   γ.
    left    by pair: the arm of its left picture.
    index   by pair: the number of its caption.
    """

    study: str
    arms: tuple[str, str]
    scale: float
    left: dict[str, str]
    index: dict[str, int]

    def other(self, arm: str) -> str:
        return self.arms[arm == self.arms[0]]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Key:
        """Raises `PreferenceError` where the file is no key."""
        found = read_json(path)
        if not isinstance(found, dict) or set(found) != set(Key.__dataclass_fields__):
            raise PreferenceError(
                f"expected the key of a page in {path}, got something else: the first file must be PAGE.key.json"
            )
        first, second = found.pop("arms")
        return Key(arms=(first, second), **found)


def read_json(path: Path) -> Any:
    """What is in a file. Raises `PreferenceError` where there is no such file, or no JSON in it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreferenceError(f"expected a file {path}, got {error.strerror}: check its name") from error
    except ValueError as error:
        raise PreferenceError(f"expected JSON in {path}, got {error}: give the file as it was saved") from error
