"""Word weights: factors on the guidance of what words stand for, each in a part of the schedule."""

import math
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from ..errors import SettingsError
from .regions import Scope, check_scope
from .words import COMMAS

MAX_WEIGHT = 10.0
"""Highest factor that can be written as text."""

_EXAMPLE = 'write entries like "horse: 1.3" or "horse: 1.3 @ 0-0.5", separated by commas'


@dataclass(frozen=True)
class WordWeight:
    """One factor.

    word        word or phrase of the prompts, or label of a token.
    factor      on the guidance scale of its region, ≥ 0.
    start, end  part of the schedule in which it acts; 0…1, start < end.

    Raises `SettingsError` for a value outside its range.
    """

    word: str | int
    factor: float
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.word, int) and self.word < 0:
            raise SettingsError(f"expected a label of a token, 0 or higher, got {self.word}: count tokens from 0")
        if not (isinstance(self.factor, Real) and 0 <= self.factor < math.inf):
            raise SettingsError(
                f"expected a weight of 0 or higher for {self.word!r}, got {self.factor!r}: 1 changes nothing"
            )
        if not 0 <= self.start < self.end <= 1:
            raise SettingsError(
                f"expected a part of the schedule within 0-1 for {self.word!r}, got {self.start:g}-{self.end:g}: "
                "0-0.5 is its first half"
            )


@dataclass(frozen=True)
class WordWeights:
    """The factors of a run, and what a word stands for: its "phrase" or the "word" alone (`regions.Scope`).

    Where two of them meet in one region, the later one counts. Raises `SettingsError` for a word that has two
    factors in one part of the schedule.
    """

    entries: tuple[WordWeight, ...] = ()
    scope: Scope = "phrase"

    def __post_init__(self) -> None:
        check_scope(self.scope)
        for place, entry in enumerate(self.entries):
            for other in self.entries[:place]:
                if entry.word == other.word and entry.start < other.end and other.start < entry.end:
                    raise SettingsError(
                        f"expected one weight of {entry.word!r} in a part of the schedule, got two: keep one"
                    )

    def parts(self) -> set[tuple[float, float]]:
        """The parts of the schedule, from start to end, in which one of them acts."""
        return {(entry.start, entry.end) for entry in self.entries}

    @classmethod
    def of(cls, given: "WordWeights | Mapping[str, float] | Mapping[int, float] | None") -> "WordWeights":
        """What a caller gave: {"horse": 1.3} by phrase, {3: 1.3} for the token with label 3, or None.

        Raises `SettingsError` for something else.
        """
        if isinstance(given, WordWeights):
            return given
        if given is None:
            return cls()
        if not isinstance(given, Mapping):
            raise SettingsError(
                f'expected word weights, got {type(given).__name__}: pass {{"horse": 1.3}}, or WordWeights'
            )
        named = all(isinstance(word, str) for word in given)
        entries = [WordWeight(_key(word), factor) for word, factor in given.items()]
        return cls(tuple(entries), "phrase" if named else "word")


def parse_weights(text: str, scope: Scope = "phrase") -> WordWeights:
    """Weights written as "horse: 1.3, red hat: 0.8 @ 0-0.5"; entries are separated by commas or new lines.

    Behind @ is the part of the schedule in which a weight acts, 0…1; without it is the whole one. Raises
    `SettingsError` for an entry that is not so, a weight above 10, and a word that is weighted twice at one time.
    """
    entries = [entry.strip() for entry in re.split(f"{COMMAS}|\n", text.replace("：", ":"))]
    return WordWeights(tuple(_parsed(entry) for entry in entries if entry), scope)


def _parsed(entry: str) -> WordWeight:
    written, colon, value = entry.rpartition(":")
    word = " ".join(written.casefold().split())
    if not (colon and word):
        raise SettingsError(f"expected a word, a colon and a number, got {entry!r}: {_EXAMPLE}")
    number, at, part = (piece.strip() for piece in value.partition("@"))
    factor = _number(number)
    if not 0 <= factor <= MAX_WEIGHT:
        raise SettingsError(f"expected a weight from 0 to {MAX_WEIGHT:g} for {word!r}, got {number!r}: {_EXAMPLE}")
    if not at:
        return WordWeight(word, factor)
    ends = [_number(end) for end in re.split("[-–]", part)]
    if len(ends) != 2 or any(math.isnan(end) for end in ends):
        raise SettingsError(f"expected a part of the schedule like 0-0.5 for {word!r}, got {part!r}: {_EXAMPLE}")
    return WordWeight(word, factor, *ends)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _key(word: Any) -> str | int:
    if isinstance(word, str):
        return word
    try:
        return operator.index(word)
    except TypeError:
        raise SettingsError(f"expected a word or the label of a token, got {word!r}: name a word") from None
