"""Who owns a region: the words of a run's prompts, each with its labels and one colour for every step and view.

A region that goes to "on" or "a" is shown as a person would say it: as that of the word after it, "on grass". What
goes to START, END or padding is that of no word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .core import FUNCTION_WORDS, JOINING, UNOWNED, Evaluation, Prompt, Run
from .palette import COLOUR_NAMES, END, NOBODY, PADDING, START, WORDS, word_colour
from .text import Colour

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
        """Mask of its patches in a label map."""
        return np.isin(labels, self.labels)


def owners_of(run: Run) -> list[Owner]:
    """Owners of every label of a run, in the order of the prompts; words that come again are counted."""
    phrases: list[_Phrase] = []
    neutral: list[Owner] = []
    for prompt in run.prompts or [Prompt.plain("cond", max(1, _count_labels(run)), ())]:
        phrases += _phrases(prompt.words_with_labels())
        for index, (text, word) in enumerate(zip(prompt.texts, prompt.words, strict=True)):
            if not text and word < 0:
                phrases.append(_Phrase([f"token {index}"], f"token {index}", [prompt.first_label + index]))
        for text, labels in _special_tokens(prompt):
            name, colour = _NO_WORD.get(text, (text, PADDING))
            neutral.append(Owner(name, labels, colour))
    colours = _colours([phrase.word.casefold() for phrase in phrases])
    words = [
        Owner(phrase.text(), tuple(phrase.labels), colour) for phrase, colour in zip(phrases, colours, strict=True)
    ]
    owners = neutral + words
    return [*_numbered(sorted(owners, key=lambda owner: owner.labels)), Owner("no prompt", (UNOWNED,), NOBODY)]


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
    return word.casefold() in FUNCTION_WORDS or not any(letter.isalnum() for letter in word)


def _is_shown(word: str) -> bool:
    return word.casefold() in FUNCTION_WORDS - JOINING


def _colours(words: Sequence[str]) -> list[Colour]:
    """A colour per word or phrase: one that names a colour looks like it."""
    places: dict[int, int] = {}
    for index, word in enumerate(words):
        named = [COLOUR_NAMES[part] for part in word.split() if part in COLOUR_NAMES]
        if named and named[0] not in places.values():
            places[index] = named[0]
    others = [index for index in range(len(words)) if index not in places]
    free = (place for place in range(len(words) + len(WORDS)) if place not in places.values())
    places |= dict(zip(others, free, strict=False))
    return [word_colour(places[index]) for index in range(len(words))]


def _special_tokens(prompt: Prompt) -> list[tuple[str, tuple[int, ...]]]:
    """START, END and padding, with all their labels."""
    groups: dict[str, list[int]] = {}
    for index, (text, word) in enumerate(zip(prompt.texts, prompt.words, strict=True)):
        if text and word < 0:
            groups.setdefault(text, []).append(prompt.first_label + index)
    return [(text, tuple(labels)) for text, labels in groups.items()]


def _numbered(owners: Sequence[Owner]) -> list[Owner]:
    """Owners with distinct texts: the second "a" becomes "a (2)"."""
    counts: dict[str, int] = {}
    numbered: list[Owner] = []
    for owner in owners:
        counts[owner.text] = counts.get(owner.text, 0) + 1
        text = f"{owner.text} ({counts[owner.text]})" if counts[owner.text] > 1 else owner.text
        numbered.append(Owner(text, owner.labels, owner.colour))
    return numbered


def _count_labels(run: Run) -> int:
    if run.token_sums:
        return max(labels[-1] for labels in run.token_sums) + 1
    return max((int(evaluation.labels.max()) + 1 for evaluation in run.evaluations), default=0)


def colours_of(owners: Sequence[Owner]) -> np.ndarray:
    """RGB uint8 (K + 1, 3): row i + 1 is the colour of label i, row 0 that of `UNOWNED`."""
    table = np.full((max(max(owner.labels) for owner in owners) + 2, 3), NOBODY, dtype=np.uint8)
    for owner in owners:
        table[[label + 1 for label in owner.labels]] = owner.colour
    return table


@dataclass(frozen=True)
class Share:
    """The area of an owner 0…1, and its mean guidance scale."""

    owner: Owner
    area: float
    scale: float


def shares_of(evaluations: Sequence[Evaluation], owners: Sequence[Owner], image: int = 0) -> list[Share]:
    """Shares of all owners with an area in these evaluations, largest mean area first."""
    labels = [evaluation.labels[image].numpy() for evaluation in evaluations]
    scales = [evaluation.ratio[image].numpy() * evaluation.guidance_scale for evaluation in evaluations]
    shares = []
    for owner in owners:
        masks = [owner.mask(label_map) for label_map in labels]
        areas = np.array([mask.mean() for mask in masks])
        if areas.any():  # grids may differ: a patch counts by its part of the image
            sums = [values[mask].sum() / mask.size for values, mask in zip(scales, masks, strict=True)]
            shares.append(Share(owner, float(areas.mean()), float(np.sum(sums) / areas.sum())))
    return sorted(shares, key=lambda share: -share.area)
