"""What an evaluation's layers add up to, prompt by prompt: their propagated columns, fused after the last layer."""

import threading
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from ..errors import ShapeError
from ..grid import Grid
from ..method.fusion import Columns, LayerFusion, TokenMaps
from ..method.settings import Settings
from ..prompt import Prompt
from .calls import Key, Rows
from .columns import Needed


class PromptSums:
    """Sums over the layers of one evaluation; may be added to from several threads at once."""

    def __init__(self, settings: Settings, prompts: Mapping[Key, Prompt]) -> None:
        self._settings = settings
        self._needed: dict[Hashable, Needed] = {key: Needed(prompt, settings) for key, prompt in prompts.items()}
        self._lock = threading.Lock()
        self._fusions: dict[tuple[Hashable, int, Columns], LayerFusion] = {}

    def declare(self, prompts: Mapping[Key, Prompt]) -> None:
        """More prompts, whose rows follow."""
        self._needed = self._needed | {key: Needed(prompt, self._settings) for key, prompt in prompts.items()}

    def needed(self, key: Hashable) -> Needed:
        """The columns that the prompt `key` needs. Raises `ShapeError` where it was not declared."""
        found = self._needed.get(key)
        if found is None:
            raise ShapeError(f"expected rows of {list(self._needed)}, got {key!r}: declare the prompt in begin()")
        return found

    def prompt(self, key: Hashable) -> Prompt:
        """The prompt `key`. Raises `ShapeError` where it was not declared."""
        return self.needed(key).prompt

    def add(self, part: Rows, propagated: Mapping[Columns, Tensor], grid: Grid, layers: int = 1) -> None:
        """Add the propagated columns of some layers, one below the other; the tensors are kept."""
        with self._lock:
            for kind, maps in propagated.items():
                key = (part.prompt, part.first_image, kind)
                if key not in self._fusions:
                    self._fusions[key] = LayerFusion(self._settings, kind)
                self._fusions[key].add(maps, grid, layers)

    def token_maps(self, key: Hashable) -> TokenMaps:
        """What Eq. 9 needs of a prompt."""
        return self._fused(key, next(iter(self.needed(key).kinds)))

    def foreground_maps(self, key: Hashable) -> TokenMaps:
        """What Eq. 14 needs of a prompt."""
        return self._fused(key, next(reversed(self.needed(key).kinds)))

    def layers_seen(self, key: Hashable) -> int:
        """How many layers were summed for a prompt."""
        return max((fusion.layers for (prompt, *_), fusion in self._fusions.items() if prompt == key), default=0)

    def grids_seen(self) -> tuple[Grid, ...]:
        """Grids of the layers that were summed, largest first."""
        seen = {grid for fusion in self._fusions.values() for grid in fusion.grids}
        return tuple(sorted(seen, key=lambda grid: -grid.area))

    def _fused(self, key: Hashable, kind: Columns) -> TokenMaps:
        parts = [
            (image, fusion) for (prompt, image, of), fusion in self._fusions.items() if (prompt, of) == (key, kind)
        ]
        if not parts:
            raise ShapeError(f"expected maps of prompt {key!r}, got none: observe its rows first")
        maps = [fusion.result() for _, fusion in sorted(parts, key=lambda pair: pair[0])]
        if len(maps) == 1:
            return maps[0]
        values = torch.cat([part.values.to(maps[0].values.device) for part in maps])
        return TokenMaps(values, maps[0].grid, maps[0].renormalised)
