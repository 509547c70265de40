"""Word weights in a run: which regions the words have, which factor every patch has now, and who has no region.

Nothing is computed, and nothing waits, where no word is weighted; a weight of 1 is as none.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..method.guidance import value_of_region
from ..method.segment import Segmentation
from ..prompt import Prompt
from .notes import Note
from .record import Run
from .regions import indices_of, regions_of
from .weights import WordWeight, WordWeights
from .words import labels_of


class Weighting:
    """The word weights of one sampling run, which it tells whose words are unknown or own nothing."""

    def __init__(self, weights: WordWeights, run: Run) -> None:
        self._weights = weights
        self._run = run
        self._prompts: list[Prompt] = []
        self._regions_of: dict[WordWeight, tuple[int, ...]] = {}
        self._regions: Tensor | None = None
        self._owning: Tensor | None = None
        self._acted: set[WordWeight] = set()
        if weights.entries:
            run.at_close(self._note_idle)

    def segmented(self, segmentation: Segmentation, prompts: Sequence[Prompt]) -> None:
        """The regions of the evaluations from here on; `prompts`: the positive entries, in label order."""
        if not self._weights.entries:
            return
        if self._prompts != prompts:
            self._prompts = list(prompts)
            self._regions_of = {entry: self._indices(entry) for entry in self._weights.entries}
        if any(entry.factor != 1 for entry in self._weights.entries):
            self._regions = regions_of(segmentation, prompts, self._weights.scope)

    def factors(self, acts: Callable[[float, float], bool], dtype: torch.dtype) -> Tensor | None:
        """The factor (B, h, w) of every patch now; None = 1 everywhere. `acts`: whether now is within start…end."""
        regions = self._regions
        if regions is None:
            return None
        now = [entry for entry in self._weights.entries if self._regions_of[entry] and acts(entry.start, entry.end)]
        factors = {region: entry.factor for entry in now for region in self._regions_of[entry]}
        factors = {region: factor for region, factor in factors.items() if factor != 1}
        if not factors:
            return None
        self._watch(regions, [entry for entry in now if entry.factor != 1])
        return value_of_region(regions, factors, 1.0, dtype)

    def _indices(self, entry: WordWeight) -> tuple[int, ...]:
        """Regions of a weighted word; a word that can have none is noted."""
        if isinstance(entry.word, int):
            return (entry.word,)
        found = indices_of(entry.word, self._prompts, self._weights.scope)
        if not found:
            known = labels_of(entry.word, self._prompts)
            self._run.note(Note.OWNS_NOTHING if known else Note.UNKNOWN_WORD, word=entry.word)
        return found

    def _watch(self, regions: Tensor, acting: Iterable[WordWeight]) -> None:
        """Note on the device which regions there are, while these entries act."""
        self._acted.update(acting)
        rows = max(region for found in self._regions_of.values() for region in found) + 3
        if self._owning is None or len(self._owning) != rows:
            self._owning = torch.zeros(rows, dtype=torch.bool, device=regions.device)
        self._owning.index_fill_(0, (regions.flatten() + 1).clamp_(max=rows - 1), True)

    def _note_idle(self) -> None:
        """Name the words that never had a region while their weight acted."""
        if self._owning is None:
            return
        owning = self._owning.tolist()
        for entry in self._weights.entries:
            regions = self._regions_of[entry]
            if entry in self._acted and not any(owning[region + 1] for region in regions):
                self._run.note(Note.OWNS_NOTHING, word=entry.word)
