"""Owners of regions: the words of a run's prompts, with their labels and one colour for all steps and views."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .core import UNOWNED, Evaluation, Prompt, Run
from .palette import COLOUR_NAMES, END, NOBODY, PADDING, START, WORDS, word_colour
from .text import Colour

_STOP_WORDS = {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"}
"""Function words: they get their colours last, so that the distinct ones go to the others."""

_NEUTRAL = {"start": START, "end": END}


@dataclass(frozen=True)
class Owner:
    """A word, or all of START, END or padding: its text, its labels and its colour."""

    text: str
    labels: tuple[int, ...]
    colour: Colour

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """Mask of its patches in a label map."""
        return np.isin(labels, self.labels)


def owners_of(run: Run) -> list[Owner]:
    """Owners of all labels of a run, in prompt order; repeated words are numbered."""
    words: list[tuple[str, tuple[int, ...]]] = []
    neutral: list[Owner] = []
    for prompt in run.prompts or [Prompt.plain("cond", max(1, _count_labels(run)), ())]:
        words += prompt.words_with_labels()
        for index, (text, word) in enumerate(zip(prompt.texts, prompt.words, strict=True)):
            if not text and word < 0:
                words.append((f"token {index}", (prompt.first_label + index,)))
        neutral += [
            Owner(text, labels, _NEUTRAL.get(text.strip("<>"), PADDING)) for text, labels in _special_tokens(prompt)
        ]
    colours = _colours([text.casefold() for text, _ in words])
    owners = neutral + [Owner(text, labels, colour) for (text, labels), colour in zip(words, colours, strict=True)]
    return [*_numbered(sorted(owners, key=lambda owner: owner.labels)), Owner("no prompt", (UNOWNED,), NOBODY)]


def _colours(words: Sequence[str]) -> list[Colour]:
    """A colour per word: colour names get their own colour, stop words what is left."""
    indices: dict[int, int] = {}
    for index, word in enumerate(words):
        if word in COLOUR_NAMES and COLOUR_NAMES[word] not in indices.values():
            indices[index] = COLOUR_NAMES[word]
    others = [index for index in range(len(words)) if index not in indices]
    others.sort(key=lambda index: words[index] in _STOP_WORDS)
    free = (colour for colour in range(len(words) + len(WORDS)) if colour not in indices.values())
    indices |= dict(zip(others, free, strict=False))
    return [word_colour(indices[index]) for index in range(len(words))]


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
