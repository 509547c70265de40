"""Shared by a page and its result: the questions, and the key that voters must not see."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scfg_core import ScfgError

QUESTIONS = {"alignment": "fits the text better", "quality": "looks better"}
"""The two aspects of the paper's Table 1, by their names in the page."""

SIDES = LEFT, RIGHT = "left", "right"
SAME = "same"
"""The answer of a voter who sees no difference."""


class PreferenceError(ScfgError):
    """A page cannot be made, or votes cannot be counted."""


@dataclass(frozen=True)
class Key:
    """Which arm made which image.

    study   id of the page, repeated in its votes.
    arms    (A, B).
    scale   γ.
    left    by pair: the arm of its left image.
    index   by pair: the index of its caption.
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
        """Raises `PreferenceError` if the file is not a key."""
        content = read_json(path)
        if not isinstance(content, dict) or set(content) != set(Key.__dataclass_fields__):
            raise PreferenceError(
                f"expected the key of a page in {path}, got something else: the first file must be PAGE.key.json"
            )
        first, second = content.pop("arms")
        return Key(arms=(first, second), **content)


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises `PreferenceError` if it cannot be read or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PreferenceError(f"expected a file {path}, got {error.strerror}: check its name") from error
    except ValueError as error:
        raise PreferenceError(f"expected JSON in {path}, got {error}: give the file as it was saved") from error
