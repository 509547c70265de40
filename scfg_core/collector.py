"""The streaming side: q and k of a layer go in as they pass, fused token maps per prompt entry come out.

A host calls, for every evaluation of the U-Net,

    collector.begin({"positive": Entry("cond", 77), "negative": Entry("uncond", 77)})
    collector.observe_self(layer, q, k, rows, grid)      # attn1 of a transformer block, or attend_self
    collector.observe_cross(layer, q, k, rows, grid)     # attn2 of the same block: C̄ of this layer is summed here
    collector.token_maps("positive")                     # when the last layer has passed

`rows` says which rows of the batch belong to which entry and image, so a batch that is joined, split or reversed
gives the same maps. Nothing of size n² outlives its transformer block, and nothing of size layers × n² exists.
Unconditional entries need the START column only (Eq. 14), so only that column is propagated.

Three ways to apply S, with the same labels: "stored" (S in blocks of rows), "fused" (the same blocks also give the
layer's output, so q kᵀ is computed once) and "matrix_free" (no S at all). The choice follows from sizes and the
budget, never from free memory.
"""

import math
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor

from .attention import MIB, block_mib_of, check_heads, compute_dtype, head_mean_attention
from .errors import SettingsError, ShapeError, expect
from .fusion import PER_LAYER_EPSILON, LayerFusion, TokenMaps, merge_starts, start_and_rest
from .grid import Grid
from .propagation import (
    MatrixFree,
    RowNormalised,
    SelfAttention,
    StoredAttention,
    needs_self_attention,
    propagate,
)
from .settings import Settings

Branch = Literal["cond", "uncond", "both"]
Kind = Literal["tokens", "foreground"]
Way = Literal["auto", "stored", "fused", "matrix_free"]

Result = TypeVar("Result")

DEFAULT_BUDGET_MIB = 256.0
SMALLEST_BLOCK_MIB = 0.5


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


class CollectorOutOfMemory(RuntimeError):
    """Every way of computing ran out of memory; the maps of this evaluation are incomplete."""


class Collector:
    """Token maps of one evaluation at a time; may be fed from several threads at once.

    settings     power_weights, renormalise, smooth_maps and foreground_rule shape what is collected.
    budget_mib   most that one layer may take beyond q, k, v and its output, MiB.
    way          "auto", or one way forced (for tests and benchmarks).
    """

    def __init__(self, settings: Settings, budget_mib: float = DEFAULT_BUDGET_MIB, way: Way = "auto") -> None:
        expect(budget_mib > 0, SettingsError, "a budget above 0 MiB", budget_mib, "the default is 256")
        ways = get_args(Way)
        expect(
            way in ways, SettingsError, f"a way of {', '.join(ways)}", repr(way), "auto chooses by size and budget"
        )
        self.settings = settings
        self.budget_mib = budget_mib
        self.way: Way = way
        self._lock = threading.Lock()
        self._largest_block_mib = math.inf
        self.begin({})

    def begin(self, entries: Mapping[Any, Entry]) -> None:
        """Forget the last evaluation; the next rows belong to `entries`."""
        with self._lock:
            self._entries = dict(entries)
            self._fusions: dict[tuple[Hashable, int, Kind], LayerFusion] = {}
            self._pending: dict[tuple[str, Hashable, int], Sequence[SelfAttention]] = {}

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
            self._keep(layer, part, self._operators(q[part.rows], k[part.rows], scale, count))

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

        def compute() -> tuple[Tensor, Sequence[SelfAttention]]:
            if not self.stores(q):
                return F.scaled_dot_product_attention(q, k, v, scale=scale), self._free(q, k, scale)
            maps, output = head_mean_attention(q, k, v=v, scale=scale, block_mib=self._block_mib(q))
            assert output is not None
            return output, [StoredAttention(own) for own in maps]

        output, operators = self._relieved(compute)
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
            tokens = self._entry(part).num_tokens
            expect_multiple(k.shape[2], tokens)
            maps = self._relieved(
                lambda part=part: head_mean_attention(
                    q[part.rows], k[part.rows], scale=scale, block_mib=self._block_mib(q)
                )[0]
            )
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
            tokens = self._entry(part).num_tokens
            expect_multiple(length, tokens)
            queries, keys = q[part.rows], k[part.rows]
            cross, operators = self._relieved(
                lambda q=queries, k=keys: (self._split_stored if self.stores(q) else self._split_free)(
                    q, k, text, image, scale
                )
            )
            self._add(part, fold_repeats(cross, tokens), operators, grid)

    def token_maps(self, entry: Hashable) -> TokenMaps:
        """Fused maps of an entry: all L tokens, or [START, rest] of an unconditional one under `start_vs_rest`."""
        return self._fused(entry, self._kinds(self._entries[entry])[0])

    def foreground_maps(self, entry: Hashable) -> TokenMaps:
        """What Eq. 14 needs of an entry of branch "uncond" or "both": [START, rest], or all L under `argmax`."""
        return self._fused(entry, self._kinds(self._entries[entry])[-1])

    def _fused(self, entry: Hashable, kind: Kind) -> TokenMaps:
        parts = [
            (first, fusion) for (key, first, of), fusion in self._fusions.items() if (key, of) == (entry, kind)
        ]
        expect(len(parts) > 0, ShapeError, f"maps of entry {entry!r}", "none", "observe its rows first")
        maps = [fusion.result() for _, fusion in sorted(parts, key=lambda pair: pair[0])]
        values = torch.cat([part.values.to(maps[0].values.device) for part in maps])
        return TokenMaps(values, maps[0].grid, maps[0].renormalised)

    def _kinds(self, entry: Entry) -> Sequence[Kind]:
        """Which sums an entry keeps."""
        if entry.branch == "cond" or self.settings.foreground_rule == "argmax":
            return ("tokens",)
        return ("foreground",) if entry.branch == "uncond" else ("tokens", "foreground")

    def layers_seen(self, entry: Hashable) -> int:
        """How many layers have been summed for an entry in this evaluation."""
        return max((fusion.layers for (key, *_), fusion in self._fusions.items() if key == entry), default=0)

    def grids_seen(self) -> tuple[Grid, ...]:
        """Grids of the layers that have been summed in this evaluation, from the largest."""
        seen = {grid for fusion in self._fusions.values() for grid in fusion.grids}
        return tuple(sorted(seen, key=lambda grid: -grid.area))

    def stores(self, q: Tensor, images: int | None = None) -> bool:
        """Whether S of `images` (default b) images of q (b, H, n, d), with blocks of scores, fits the budget."""
        if self.way != "auto":
            return self.way != "matrix_free"
        size = (images or q.shape[0]) * q.shape[2] ** 2 * compute_dtype(q).itemsize
        return size <= (self.budget_mib - 3 * self._block_mib(q)) * MIB

    def _block_mib(self, q: Tensor) -> float:
        return min(block_mib_of(q.device, self.budget_mib), self._largest_block_mib)

    def _entry(self, part: Rows) -> Entry:
        known = part.entry in self._entries
        expect(
            known, ShapeError, f"rows of {list(self._entries)}", repr(part.entry), "declare the entry in begin()"
        )
        return self._entries[part.entry]

    def _check(self, q: Tensor, k: Tensor, grid: Grid) -> None:
        check_heads(q, k)
        n = q.shape[2]
        expect(n == grid.area, ShapeError, f"{grid.area} queries ({grid})", n, "pass the layer's grid")

    def _operators(self, q: Tensor, k: Tensor, scale: float | None, count: int) -> Sequence[SelfAttention]:
        """What can act as S for some of the `count` images of a call."""

        def compute() -> Sequence[SelfAttention]:
            if not self.stores(q, count):
                return self._free(q, k, scale)
            maps, _ = head_mean_attention(q, k, scale=scale, block_mib=self._block_mib(q))
            return [StoredAttention(own) for own in maps]

        return self._relieved(compute)

    def _split_stored(
        self, q: Tensor, k: Tensor, text: slice, image: slice, scale: float | None
    ) -> tuple[Tensor, Sequence[SelfAttention]]:
        maps, _ = head_mean_attention(q, k, scale=scale, block_mib=self._block_mib(q))
        own = maps[:, :, image]
        operators: list[SelfAttention] = [StoredAttention(each) for each in own]
        return maps[:, :, text], self._normalised(operators, own.sum(dim=-1, keepdim=True))

    def _split_free(
        self, q: Tensor, k: Tensor, text: slice, image: slice, scale: float | None
    ) -> tuple[Tensor, Sequence[SelfAttention]]:
        free = self._free(q, k, scale, image)
        length = len(range(*text.indices(k.shape[2])))
        identity = torch.eye(length, device=q.device, dtype=compute_dtype(q))
        cross = torch.stack([each.attend(identity, text) for each in free])
        ones = cross.new_ones((q.shape[2], 1))
        return cross, self._normalised(list(free), torch.stack([each.apply(ones) for each in free]))

    def _free(self, q: Tensor, k: Tensor, scale: float | None, image: slice = slice(None)) -> Sequence[MatrixFree]:
        block_mib = self._block_mib(q)
        return [MatrixFree(own, key, scale, image, block_mib) for own, key in zip(q, k, strict=True)]

    def _normalised(self, operators: list[SelfAttention], row_sums: Tensor) -> Sequence[SelfAttention]:
        if self.settings.renormalise == "per_layer":
            return operators
        return [RowNormalised(own, sums) for own, sums in zip(operators, row_sums, strict=True)]

    def _keep(self, layer: str, part: Rows, operators: Sequence[SelfAttention]) -> None:
        with self._lock:
            self._pending[layer, part.entry, part.first_image] = operators

    def _take(self, layer: str, part: Rows) -> Sequence[SelfAttention] | None:
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

    def _add(self, part: Rows, cross: Tensor, operators: Sequence[SelfAttention] | None, grid: Grid) -> None:
        """Propagate the columns that the entry's branch needs, and add them to its fusion."""
        entry = self._entries[part.entry]
        kinds = self._kinds(entry)
        columns = {"tokens": merge_starts(cross, entry.start_tokens)}
        if "foreground" in kinds:
            columns["foreground"] = start_and_rest(cross, entry.start_tokens)
        weights = self.settings.power_weights
        chosen = operators or [None] * len(cross)

        def propagate_all() -> list[Tensor]:
            joined = torch.cat([columns[kind] for kind in kinds], dim=-1)
            passed = [propagate(own, each, weights) for own, each in zip(chosen, joined, strict=True)]
            return list(torch.stack(passed).split([columns[kind].shape[-1] for kind in kinds], dim=-1))

        propagated = self._relieved(propagate_all)
        with self._lock:
            for kind, maps in zip(kinds, propagated, strict=True):
                fusion = self._fusions.setdefault((part.entry, part.first_image, kind), self._new_fusion(kind))
                fusion.add(maps, grid)

    def _new_fusion(self, kind: Kind) -> LayerFusion:
        return LayerFusion(self.settings, PER_LAYER_EPSILON if kind == "tokens" else 0.0)

    def _relieved(self, compute: Callable[[], Result]) -> Result:
        """compute(), again with less memory each time that it runs out; `CollectorOutOfMemory` at the end."""
        while True:
            try:
                return compute()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if not self._economise():
                    raise CollectorOutOfMemory("S-CFG's own part ran out of memory in every way") from error

    def _economise(self) -> bool:
        """Smaller blocks, then matrix-free; False where nothing is left to try."""
        with self._lock:
            if self._largest_block_mib > SMALLEST_BLOCK_MIB:
                self._largest_block_mib = SMALLEST_BLOCK_MIB
            elif self.way != "matrix_free":
                self.way = "matrix_free"
            else:
                return False
            return True


def expect_multiple(keys: int, tokens: int) -> None:
    """Raise `ShapeError` unless the text keys are whole repeats of an entry's own tokens."""
    remedy = "declare the entry with its own token count"
    expect(keys % tokens == 0, ShapeError, f"a multiple of {tokens} text keys", keys, remedy)


def fold_repeats(maps: Tensor, tokens: int) -> Tensor:
    """(b, n, rep·L) → (b, n, L): a host may repeat the token axis; the copies' probabilities are summed."""
    return reduce(maps, "b n (rep l) -> b n l", "sum", l=tokens)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left; devices other than CUDA only say so in words."""
    words = str(error).lower()
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in words or "allocate memory" in words
