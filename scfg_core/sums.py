"""What an evaluation's layers add up to, entry by entry: their propagated columns, fused when the last has come."""

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import ShapeError, expect
from .fusion import PER_LAYER_EPSILON, LayerFusion, TokenMaps, merge_starts, start_and_rest
from .grid import Grid
from .settings import Settings

Branch = Literal["cond", "uncond", "both"]
Kind = Literal["tokens", "foreground"]


@dataclass(frozen=True)
class Entry:
    """A prompt entry of this evaluation: its branch, its own token count L, and its START tokens (() = none).

    "both" keeps what either branch needs: all tokens, and [START, rest].
    """

    branch: Branch
    num_tokens: int
    start_tokens: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Rows:
    """Rows of a call's batch that belong to `entry`; the first of them is image `first_image` of the entry."""

    entry: Hashable
    rows: slice
    first_image: int = 0


class EntrySums:
    """Sums over the layers of one evaluation; may be added to from several threads at once."""

    def __init__(self, settings: Settings, entries: Mapping[Any, Entry]) -> None:
        self._settings = settings
        self._entries = dict(entries)
        self._lock = threading.Lock()
        self._fusions: dict[tuple[Hashable, int, Kind], LayerFusion] = {}

    def entry(self, part: Rows) -> Entry:
        """The entry that some rows belong to. Raises `ShapeError` where it was not declared."""
        known = part.entry in self._entries
        expect(
            known, ShapeError, f"rows of {list(self._entries)}", repr(part.entry), "declare the entry in begin()"
        )
        return self._entries[part.entry]

    def columns(self, part: Rows, cross: Tensor) -> dict[Kind, Tensor]:
        """The columns (b, n, …) of C (b, n, L) that the entry's branch needs, in its order."""
        entry = self._entries[part.entry]
        columns: dict[Kind, Tensor] = {}
        for kind in self._kinds(entry):
            chosen = merge_starts if kind == "tokens" else start_and_rest
            columns[kind] = chosen(cross, entry.start_tokens)
        return columns

    def add(self, part: Rows, propagated: Mapping[Kind, Tensor], grid: Grid) -> None:
        """Add one layer's propagated columns; the tensors are kept."""
        with self._lock:
            for kind, maps in propagated.items():
                epsilon = PER_LAYER_EPSILON if kind == "tokens" else 0.0
                new = LayerFusion(self._settings, epsilon)
                self._fusions.setdefault((part.entry, part.first_image, kind), new).add(maps, grid)

    def token_maps(self, entry: Hashable) -> TokenMaps:
        return self._fused(entry, self._kinds(self._entries[entry])[0])

    def foreground_maps(self, entry: Hashable) -> TokenMaps:
        return self._fused(entry, self._kinds(self._entries[entry])[-1])

    def layers_seen(self, entry: Hashable) -> int:
        return max((fusion.layers for (key, *_), fusion in self._fusions.items() if key == entry), default=0)

    def grids_seen(self) -> tuple[Grid, ...]:
        seen = {grid for fusion in self._fusions.values() for grid in fusion.grids}
        return tuple(sorted(seen, key=lambda grid: -grid.area))

    def _kinds(self, entry: Entry) -> Sequence[Kind]:
        """Which sums an entry keeps."""
        if entry.branch == "cond" or self._settings.foreground_rule == "argmax":
            return ("tokens",)
        return ("foreground",) if entry.branch == "uncond" else ("tokens", "foreground")

    def _fused(self, entry: Hashable, kind: Kind) -> TokenMaps:
        parts = [
            (first, fusion) for (key, first, of), fusion in self._fusions.items() if (key, of) == (entry, kind)
        ]
        expect(len(parts) > 0, ShapeError, f"maps of entry {entry!r}", "none", "observe its rows first")
        maps = [fusion.result() for _, fusion in sorted(parts, key=lambda pair: pair[0])]
        values = torch.cat([part.values.to(maps[0].values.device) for part in maps])
        return TokenMaps(values, maps[0].grid, maps[0].renormalised)
