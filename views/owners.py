"""Who owns a region: the words of a run's prompts, each with its labels and one colour for every step and view."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .core import UNOWNED, Evaluation, Prompt, Run
from .palette import END, LIKE_THEMSELVES, NOBODY, PADDING, START, WORDS, word_colour
from .text import Colour

_LITTLE = {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"}
"""Words that say little: they take their colours last, so that the distinct ones go to the others."""

_NEUTRAL = {"start": START, "end": END}


@dataclass(frozen=True)
class Owner:
    """A word, or all of START, END or padding: what it is called, the labels that are its own, and its colour."""

    text: str
    labels: tuple[int, ...]
    colour: Colour

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Where it owns a label map."""
        return np.isin(labels, self.labels)


def owners_of(run: Run) -> list[Owner]:
    """Owners of every label of a run, in the order of the prompts; words that come again are counted."""
    words: list[tuple[str, tuple[int, ...]]] = []
    neutral: list[Owner] = []
    for prompt in run.prompts or [Prompt.plain("cond", max(1, _count_labels(run)), ())]:
        words += prompt.words_with_labels()
        for index, (text, word) in enumerate(zip(prompt.texts, prompt.words, strict=True)):
            if not text and word < 0:
                words.append((f"token {index}", (prompt.first_label + index,)))
        neutral += [Owner(text, labels, _NEUTRAL.get(text.strip("<>"), PADDING)) for text, labels in _rest(prompt)]
    colours = _colours([text.casefold() for text, _ in words])
    owners = neutral + [Owner(text, labels, colour) for (text, labels), colour in zip(words, colours, strict=True)]
    return [*_counted(sorted(owners, key=lambda owner: owner.labels)), Owner("no prompt", (UNOWNED,), NOBODY)]


def _colours(words: Sequence[str]) -> list[Colour]:
    """A colour per word: names of colours look like themselves, words that say little take what is left."""
    places: dict[int, int] = {}
    for index, word in enumerate(words):
        if word in LIKE_THEMSELVES and LIKE_THEMSELVES[word] not in places.values():
            places[index] = LIKE_THEMSELVES[word]
    others = [index for index in range(len(words)) if index not in places]
    others.sort(key=lambda index: words[index] in _LITTLE)
    free = (place for place in range(len(words) + len(WORDS)) if place not in places.values())
    places |= dict(zip(others, free, strict=False))
    return [word_colour(places[index]) for index in range(len(words))]


def _rest(prompt: Prompt) -> list[tuple[str, tuple[int, ...]]]:
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
        return max(labels[-1] for labels in run.token_sums) + 1
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
