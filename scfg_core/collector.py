"""The streaming side: q and k of a layer go in as they pass, fused token maps per prompt entry come out.

A host calls, for every evaluation of the U-Net,

    collector.begin({"positive": Entry("cond", 77), "negative": Entry("uncond", 77)})
    collector.observe_self(layer, q, k, rows, grid)      # attn1 of a transformer block, or attend_self
    collector.observe_cross(layer, q, k, rows, grid)     # attn2 of the same block: C̄ of this layer is summed here
    collector.token_maps("positive")                     # when the last layer has passed

`rows` says which rows of the batch belong to which entry and image, so a batch that is joined, split or reversed
gives the same maps. Nothing of size n² outlives its transformer block, and nothing of size layers × n² exists.
Unconditional entries need the START column only (Eq. 14), so only that column is propagated.

How S is applied, and what happens when memory runs out, is `ways` and `relief`.
"""

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from .attention import check_heads
from .errors import ShapeError, expect
from .fusion import TokenMaps
from .grid import Grid
from .propagation import needs_self_attention, propagate
from .relief import DEFAULT_BUDGET_MIB, CollectorOutOfMemory, Relief, Way, is_out_of_memory
from .settings import Settings
from .sums import Branch, Entry, EntrySums, Rows
from .ways import Operators, attended, cross_maps, joint, self_operators

__all__ = [
    "DEFAULT_BUDGET_MIB",
    "Branch",
    "Collector",
    "CollectorOutOfMemory",
    "Entry",
    "Rows",
    "Way",
    "is_out_of_memory",
]


class Collector:
    """Token maps of one evaluation at a time; may be fed from several threads at once.

    settings     power_weights, renormalise, smooth_maps and foreground_rule shape what is collected.
    budget_mib   most that one layer may take beyond q, k, v and its output, MiB.
    way          "auto", or one way forced (for tests and benchmarks).
    """

    def __init__(self, settings: Settings, budget_mib: float = DEFAULT_BUDGET_MIB, way: Way = "auto") -> None:
        self.settings = settings
        self._relief = Relief(budget_mib, way)
        self._lock = threading.Lock()
        self.begin({})

    def begin(self, entries: Mapping[Any, Entry]) -> None:
        """Forget the last evaluation; the next rows belong to `entries`."""
        with self._lock:
            self._sums = EntrySums(self.settings, entries)
            self._pending: dict[tuple[str, Hashable, int], Operators] = {}

    @torch.no_grad()
    def observe_self(
        self,
        layer: str,
        q: Tensor,
        k: Tensor,
        rows: Sequence[Rows],
        grid: Grid,
        *,
        scale: float | None = None,
    ) -> None:
        """Self-attention of a transformer block: q, k (b, H, n, d), n = grid.area. Raises `ShapeError`."""
        self._check(q, k, grid)
        expect(k.shape[2] == grid.area, ShapeError, f"{grid.area} self-attention keys", k.shape[2], "pass attn1")
        if not needs_self_attention(self.settings.power_weights):
            return
        count = sum(len(range(*part.rows.indices(len(q)))) for part in rows)
        for part in rows:
            self._keep(layer, part, self_operators(q[part.rows], k[part.rows], scale, count, self._relief))

    @torch.no_grad()
    def attend_self(
        self,
        layer: str,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rows: Sequence[Rows],
        grid: Grid,
        *,
        scale: float | None = None,
    ) -> Tensor:
        """As `observe_self`, and returns the layer's own output softmax(q kᵀ)·v (b, H, n, d), within rounding.

        Where S is not needed or does not fit the budget, the output comes from the fastest attention there is.
        """
        self._check(q, k, grid)
        if not needs_self_attention(self.settings.power_weights):
            return F.scaled_dot_product_attention(q, k, v, scale=scale)
        output, operators = attended(q, k, v, scale, self._relief)
        for part in rows:
            self._keep(layer, part, operators[part.rows])
        return output

    @torch.no_grad()
    def observe_cross(
        self,
        layer: str,
        q: Tensor,
        k: Tensor,
        rows: Sequence[Rows],
        grid: Grid,
        *,
        scale: float | None = None,
    ) -> None:
        """Cross-attention of the block whose self-attention came before: q (b, H, n, d), k (b, H, rep·L, d).

        A host may repeat an entry's tokens to a common length: the copies' probabilities are summed.
        Raises `ShapeError`, among others where the block's self-attention was not observed.
        """
        self._check(q, k, grid)
        for part in rows:
            tokens = self._sums.entry(part).num_tokens
            expect_multiple(k.shape[2], tokens)
            maps = cross_maps(q[part.rows], k[part.rows], scale, self._relief)
            self._add(part, fold_repeats(maps, tokens), self._take(layer, part), grid)

    @torch.no_grad()
    def observe_joint(
        self,
        layer: str,
        q: Tensor,
        k: Tensor,
        rows: Sequence[Rows],
        grid: Grid,
        *,
        text: slice,
        image: slice,
        scale: float | None = None,
    ) -> None:
        """A layer that attends over text and image keys in one softmax: S and C are blocks of its columns.

        q (b, H, n, d) are the image patches; k (b, H, m, d) all keys, `text` and `image` say which are which.
        Rows of S sum to less than 1: `after_fusion` divides by their sums, `per_layer` (the authors) does not.
        """
        self._check(q, k, grid)
        size = len(range(*image.indices(k.shape[2])))
        expect(size == grid.area, ShapeError, f"{grid.area} image keys", size, "pass where the image's keys stand")
        length = len(range(*text.indices(k.shape[2])))
        for part in rows:
            tokens = self._sums.entry(part).num_tokens
            expect_multiple(length, tokens)
            cross, operators = joint(
                q[part.rows],
                k[part.rows],
                scale,
                self._relief,
                text=text,
                image=image,
                normalise=self.settings.renormalise != "per_layer",
            )
            self._add(part, fold_repeats(cross, tokens), operators, grid)

    def forget(self, layer: str | None = None) -> None:
        """Drop the S of a layer, or of all, whose cross-attention will not come."""
        with self._lock:
            kept = {} if layer is None else {key: each for key, each in self._pending.items() if key[0] != layer}
            self._pending = kept

    def token_maps(self, entry: Hashable) -> TokenMaps:
        """Fused maps of an entry: all L tokens, or [START, rest] of an unconditional one under `start_vs_rest`."""
        return self._sums.token_maps(entry)

    def foreground_maps(self, entry: Hashable) -> TokenMaps:
        """What Eq. 14 needs of an entry of branch "uncond" or "both": [START, rest], or all L under `argmax`."""
        return self._sums.foreground_maps(entry)

    def layers_seen(self, entry: Hashable) -> int:
        """How many layers have been summed for an entry in this evaluation."""
        return self._sums.layers_seen(entry)

    def grids_seen(self) -> tuple[Grid, ...]:
        """Grids of the layers that have been summed in this evaluation, from the largest."""
        return self._sums.grids_seen()

    def stores(self, q: Tensor, images: int | None = None) -> bool:
        """Whether S of `images` (default b) images of q (b, H, n, d), with blocks of scores, fits the budget."""
        return self._relief.stores(q, images)

    def _check(self, q: Tensor, k: Tensor, grid: Grid) -> None:
        check_heads(q, k)
        n = q.shape[2]
        expect(n == grid.area, ShapeError, f"{grid.area} queries ({grid})", n, "pass the layer's grid")

    def _keep(self, layer: str, part: Rows, operators: Operators) -> None:
        with self._lock:
            self._pending[layer, part.entry, part.first_image] = operators

    def _take(self, layer: str, part: Rows) -> Operators | None:
        if not needs_self_attention(self.settings.power_weights):
            return None
        with self._lock:
            operators = self._pending.pop((layer, part.entry, part.first_image), None)
        expect(
            operators is not None,
            ShapeError,
            f"self-attention of {layer} before its cross-attention",
            "none",
            "observe attn1 of the same rows first",
        )
        return operators

    def _add(self, part: Rows, cross: Tensor, operators: Operators | None, grid: Grid) -> None:
        """Propagate the columns that the entry's branch needs, and add them to its sums."""
        columns = self._sums.columns(part, cross)
        weights = self.settings.power_weights
        chosen = operators or [None] * len(cross)

        def propagate_all() -> list[Tensor]:
            joined = torch.cat(list(columns.values()), dim=-1)
            passed = [propagate(own, each, weights) for own, each in zip(chosen, joined, strict=True)]
            return list(torch.stack(passed).split([each.shape[-1] for each in columns.values()], dim=-1))

        self._sums.add(part, dict(zip(columns, self._relief.run(propagate_all), strict=True)), grid)


def expect_multiple(keys: int, tokens: int) -> None:
    """Raise `ShapeError` unless the text keys are whole repeats of an entry's own tokens."""
    remedy = "declare the entry with its own token count"
    expect(keys % tokens == 0, ShapeError, f"a multiple of {tokens} text keys", keys, remedy)


def fold_repeats(maps: Tensor, tokens: int) -> Tensor:
    """(b, n, rep·L) → (b, n, L): a host may repeat the token axis; the copies' probabilities are summed."""
    return reduce(maps, "b n (rep l) -> b n l", "sum", l=tokens)
