"""Words of a prompt and the labels of their tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import SettingsError, expect


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of one positive prompt entry; token i has label `first_label` + i.

    texts  the whole word that each token belongs to; for START, END and padding a name in angle brackets; "" where
           the encoder did not say.
    words  which word of the prompt each token belongs to, counted from 0; −1 = none.
    """

    first_label: int
    texts: tuple[str, ...]
    words: tuple[int, ...]

    @classmethod
    def unnamed(cls, first_label: int, length: int) -> "PromptTokens":
        """Tokens of an encoder that does not say its words."""
        return cls(first_label, ("",) * length, (-1,) * length)

    def spelled(self) -> list[tuple[str, tuple[int, ...]]]:
        """The words in order, each with the labels of its tokens."""
        labels: dict[int, list[int]] = {}
        for index, word in enumerate(self.words):
            if word >= 0:
                labels.setdefault(word, []).append(self.first_label + index)
        return [(self.texts[found[0] - self.first_label], tuple(found)) for _, found in sorted(labels.items())]


def labels_of(phrase: str, prompts: Sequence[PromptTokens]) -> tuple[int, ...]:
    """Labels of all tokens of a word or phrase, wherever it stands, in letters of any case; () = nowhere.

    Blanks do not count: the encoder may cut "red-hat" or "don't" into several words.
    """
    wanted = "".join(phrase.casefold().split())
    found: list[int] = []
    for prompt in prompts:
        spelled = [("".join(text.casefold().split()), labels) for text, labels in prompt.spelled()]
        for start in range(len(spelled)):
            read, labels = "", []
            for text, own in spelled[start:]:
                read, labels = read + text, [*labels, *own]
                if len(read) >= len(wanted):
                    break
            if wanted and read == wanted:
                found += labels
    return tuple(dict.fromkeys(found))


def parse_weights(text: str) -> dict[str, float]:
    """ "horse: 1.3, red hat: 0.8" → {"horse": 1.3, "red hat": 0.8}; entries are separated by commas or new lines.

    Raises `SettingsError` for an entry that is not "word: number" with a number from 0 to 10, and for a repetition.
    """
    weights: dict[str, float] = {}
    remedy = 'write entries like "horse: 1.3", separated by commas'
    for entry in text.replace("\n", ",").split(","):
        if not entry.strip():
            continue
        phrase, colon, number = entry.rpartition(":")
        phrase = " ".join(phrase.casefold().split())
        expect(bool(colon and phrase), SettingsError, "a word, a colon and a number", repr(entry.strip()), remedy)
        try:
            weight = float(number)
        except ValueError:
            weight = float("nan")
        expect(
            0 <= weight <= 10, SettingsError, f"a weight from 0 to 10 for {phrase!r}", repr(number.strip()), remedy
        )
        expect(phrase not in weights, SettingsError, f"{phrase!r} once", "twice", "keep one of the two")
        weights[phrase] = weight
    return weights
