"""Who owns a region: the words of a run's prompts, each with its labels and one colour for every step and view.

A region that goes to "on" or "a" is shown as a person would say it: as that of the word after it, "on grass". What
goes to START, END or padding is that of no word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .core import UNOWNED, Evaluation, PromptTokens, Run
from .palette import END, LIKE_THEMSELVES, NOBODY, PADDING, START, WORDS, word_colour
from .text import Colour

_JOINING = {"and", "or"}
_LITTLE = {"a", "an", "at", "by", "for", "from", "in", "into", "its", "of", "on", "the", "to", "with"} | _JOINING
"""Words that say nothing alone, as punctuation does: they go with the next word, or at the end with the last."""

_NO_WORD = {
    "<start>": ("no word (start)", START),
    "<end>": ("no word (end)", END),
    "<pad>": ("no word (padding)", PADDING),
}


@dataclass(frozen=True)
class Owner:
    """A word with the little ones before it, or all of START, END or padding: its name, labels and colour."""

    text: str
    labels: tuple[int, ...]
    colour: Colour

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Where it owns a label map."""
        return np.isin(labels, self.labels)


def owners_of(run: Run) -> list[Owner]:
    """Owners of every label of a run, in the order of the prompts; words that come again are counted."""
    phrases: list[_Phrase] = []
    neutral: list[Owner] = []
    for prompt in run.tokens or [PromptTokens.unnamed(0, _count_labels(run))]:
        phrases += _phrases(prompt.spelled())
        for index, (text, word) in enumerate(zip(prompt.texts, prompt.words, strict=True)):
            if not text and word < 0:
                phrases.append(_Phrase([f"token {index}"], f"token {index}", [prompt.first_label + index]))
        for text, labels in _rest(prompt):
            name, colour = _NO_WORD.get(text, (text, PADDING))
            neutral.append(Owner(name, labels, colour))
    colours = _colours([phrase.word.casefold() for phrase in phrases])
    words = [
        Owner(phrase.text(), tuple(phrase.labels), colour) for phrase, colour in zip(phrases, colours, strict=True)
    ]
    owners = neutral + words
    return [*_counted(sorted(owners, key=lambda owner: owner.labels)), Owner("no prompt", (UNOWNED,), NOBODY)]


@dataclass
class _Phrase:
    """A word, `words` with the little ones that go with it in their order, and the labels of all."""

    words: list[str]
    word: str
    labels: list[int]

    def text(self) -> str:
        return " ".join(word for word in self.words if word == self.word or _is_shown(word))


def _phrases(spelled: Sequence[tuple[str, tuple[int, ...]]]) -> list[_Phrase]:
    """The words of a prompt, the little ones joined to their neighbours."""
    phrases: list[_Phrase] = []
    waiting = _Phrase([], "", [])
    for text, labels in spelled:
        waiting.words.append(text)
        waiting.labels += labels
        waiting.word = text
        if not _is_little(text):
            phrases.append(waiting)
            waiting = _Phrase([], "", [])
    if waiting.words and phrases:
        phrases[-1].words += waiting.words
        phrases[-1].labels += waiting.labels
    elif waiting.words:
        phrases.append(waiting)
    return phrases


def _is_little(word: str) -> bool:
    return word.casefold() in _LITTLE or not any(letter.isalnum() for letter in word)


def _is_shown(word: str) -> bool:
    return word.casefold() in _LITTLE - _JOINING


def _colours(words: Sequence[str]) -> list[Colour]:
    """A colour per word or phrase: one that names a colour looks like it."""
    places: dict[int, int] = {}
    for index, word in enumerate(words):
        named = [LIKE_THEMSELVES[part] for part in word.split() if part in LIKE_THEMSELVES]
        if named and named[0] not in places.values():
            places[index] = named[0]
    others = [index for index in range(len(words)) if index not in places]
    free = (place for place in range(len(words) + len(WORDS)) if place not in places.values())
    places |= dict(zip(others, free, strict=False))
    return [word_colour(places[index]) for index in range(len(words))]


def _rest(prompt: PromptTokens) -> list[tuple[str, tuple[int, ...]]]:
    """START, END and padding, each once, with all their labels."""
    groups: dict[str, list[int]] = {}
    for index, (text, word) in enumerate(zip(prompt.texts, prompt.words, strict=True)):
        if text and word < 0:
            groups.setdefault(text, []).append(prompt.first_label + index)
    return [(text, tuple(labels)) for text, labels in groups.items()]


def _counted(owners: Sequence[Owner]) -> list[Owner]:
    seen: dict[str, int] = {}
    counted: list[Owner] = []
    for owner in owners:
        seen[owner.text] = seen.get(owner.text, 0) + 1
        again = f"{owner.text} ({seen[owner.text]})" if seen[owner.text] > 1 else owner.text
        counted.append(Owner(again, owner.labels, owner.colour))
    return counted


def _count_labels(run: Run) -> int:
    if run.token_sums:
        return max(labels.stop for labels in run.token_sums)
    return max((int(each.labels.max()) + 1 for each in run.evaluations), default=0)


def colours_of(owners: Sequence[Owner]) -> np.ndarray:
    """RGB uint8 (K + 1, 3): the colour of label i is in row i + 1, that of `UNOWNED` in row 0."""
    table = np.full((max(max(owner.labels) for owner in owners) + 2, 3), NOBODY, dtype=np.uint8)
    for owner in owners:
        table[[label + 1 for label in owner.labels]] = owner.colour
    return table


@dataclass(frozen=True)
class Share:
    """What an owner has: its part of the area 0…1, and the mean guidance scale there."""

    owner: Owner
    area: float
    scale: float


def shares_of(evaluations: Sequence[Evaluation], owners: Sequence[Owner], image: int = 0) -> list[Share]:
    """Everyone who owns something in these evaluations, the largest mean area first."""
    labels = [each.labels[image].numpy() for each in evaluations]
    scales = [each.ratio[image].numpy() * each.guidance_scale for each in evaluations]
    shares = []
    for owner in owners:
        masks = [owner.mask(own) for own in labels]
        areas = np.array([mask.mean() for mask in masks])
        if areas.any():  # grids may differ: a place counts by its part of the picture
            sums = [values[mask].sum() / mask.size for values, mask in zip(scales, masks, strict=True)]
            shares.append(Share(owner, float(areas.mean()), float(np.sum(sums) / areas.sum())))
    return sorted(shares, key=lambda share: -share.area)
