"""`operators` by the Triton kernels: S in memory, or tiles of S that never leave the chip."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from ..precision import full_precision
from . import fused
from .operators import LEAST_SHARE, Operator, SelfHeads

Keeping = Literal["split", "half", "large", "none"]
"""How S is kept: as two fp16, as one, as one and applied in large tiles, or not at all."""

SPLIT_TO = 2048
"""To so many patches S is kept as two fp16 …"""

HALF_TO = 8192
"""… and to so many it is applied in small tiles."""


FEW_KEYS = 1024
"""So many keys beside the image's are faster to sum up than the image's own."""


@dataclass(frozen=True)
class Narrow:
    """Images (first to stop) of whose columns only the first `fused.NARROW` are needed."""

    first: int = 0
    stop: int = 0

    def within(self, images: slice) -> "Narrow":
        """The same, counted from the first of `images`."""
        first = min(max(self.first, images.start), images.stop) - images.start
        return Narrow(first, max(first, min(self.stop, images.stop) - images.start))


def keeping_of(n: int) -> Keeping:
    """How S of n patches is kept where there is room for it."""
    return "split" if n <= SPLIT_TO else "half" if n <= HALF_TO else "large"


def map_bytes(n: int) -> int:
    """Bytes of S of one image."""
    return n * n * (4 if keeping_of(n) == "split" else 2)


def cross_maps(q: Tensor, k: Tensor, scale: float, kept: Tensor | None, width: int) -> Tensor:
    """C (b, n, width) of text keys k (b, H, m, d), zeros beyond m."""
    q, k = fused.readable(q), fused.readable(k)
    if width <= fused.TEXT_KEYS and q.itemsize == 2:
        return fused.text_maps(q, k, scale, kept, width)
    return fused.head_mean(q, k, fused.row_lse(q, k, scale, kept), scale, kept, width)


class Tiles(Operator):
    """What both have: q, k and the log-sum-exp of every row, from which any tile of S can be computed."""

    def __init__(self, heads: SelfHeads, lse: Tensor, narrow: Narrow) -> None:
        self._heads, self._lse, self._narrow = heads, lse, narrow
        image = heads.image or slice(None)
        self._keys = fused.readable(heads.k[:, :, image])
        self._kept = None if heads.kept is None else heads.kept[:, image].contiguous()
        self._columns: dict[tuple[int, int], Tensor] = {}
        self._level = lse
        if heads.normalise:
            self._level = lse + self._image_share().log2()[..., None, :]

    @abstractmethod
    def apply(self, values: Tensor, base: Tensor, alpha: float, beta: float, last: bool) -> Tensor:
        """α S Y + β X for Y split (`fused.split`) and X (b, n, t); split again, unless it is the last one."""

    @full_precision
    def propagate(self, columns: Tensor, power_weights: Sequence[float]) -> Tensor:
        highest = max(power for power, weight in enumerate(power_weights) if weight > 0)
        columns = columns.contiguous()
        result, alpha = fused.split(columns), power_weights[highest]
        for power in reversed(range(highest)):
            result, alpha = self.apply(result, columns, alpha, power_weights[power], power == 0), 1.0
        return result

    def text_columns(self, text: slice) -> Tensor:
        place, heads = (text.start, text.stop), self._heads
        if place not in self._columns:
            kept = None if heads.kept is None else heads.kept[:, text].contiguous()
            keys = fused.readable(heads.k[:, :, text])
            self._columns[place] = fused.head_mean(
                heads.q, keys, self._lse, heads.scale, kept, fused.padded(keys.shape[2])
            )
        return self._columns[place][..., : text.stop - text.start]

    def _image_share(self) -> Tensor:
        """(b, n): what the image's keys have of every row; as a rule what a few others, the text's, leave."""
        lse, keys = self._lse, self._heads.k.shape[2]
        image = self._heads.image or slice(0, keys)
        others = [slice(*ends) for ends in ((0, image.start), (image.stop, keys)) if ends[0] < ends[1]]
        if keys - (image.stop - image.start) > FEW_KEYS:
            ones = lse.new_ones((lse.shape[0], lse.shape[2], fused.ALIGNMENT))
            return self._streamed(fused.split(ones), ones, 1.0, 0.0, True, Narrow())[..., 0]
        share = lse.new_ones((1, 1))
        for place in others:
            share = share - self.text_columns(place).sum(dim=-1)
        return share.clamp(min=LEAST_SHARE)

    def _streamed(
        self, values: Tensor, base: Tensor, alpha: float, beta: float, last: bool, narrow: Narrow
    ) -> Tensor:
        return fused.stream_map(
            self._heads.q, self._keys, self._level, self._heads.scale, self._kept,
            values, base, alpha, beta, last, narrow.first, narrow.stop,
        )  # fmt: skip


class StoredTiles(Tiles):
    """S in memory, as one fp16 or as two."""

    def __init__(self, heads: SelfHeads, lse: Tensor, narrow: Narrow, keeping: Keeping) -> None:
        super().__init__(heads, lse, narrow)
        half, self._large = keeping != "split", keeping == "large"
        self._maps = fused.split_mean(heads.q, self._keys, self._level, heads.scale, self._kept, half)

    def apply(self, values: Tensor, base: Tensor, alpha: float, beta: float, last: bool) -> Tensor:
        narrow = self._narrow
        return fused.apply_map(self._maps, values, base, alpha, beta, last, narrow.first, narrow.stop, self._large)


class StreamedTiles(Tiles):
    """No S: every product computes its tiles again."""

    def apply(self, values: Tensor, base: Tensor, alpha: float, beta: float, last: bool) -> Tensor:
        return self._streamed(values, base, alpha, beta, last, self._narrow)


def operators(
    heads: SelfHeads, together: int, narrow: Narrow, keeping: Keeping
) -> Iterator[tuple[slice, Operator]]:
    """Operators of `together` images at a time, with their images; of all where no S is kept."""
    heads = replace(heads, q=fused.readable(heads.q), k=fused.readable(heads.k))
    lse = fused.row_lse(heads.q, heads.k, heads.scale, heads.kept)
    if keeping == "none":
        yield slice(0, lse.shape[0]), StreamedTiles(heads, lse, narrow)
        return
    for first in range(0, lse.shape[0], together):
        images = slice(first, min(first + together, lse.shape[0]))
        yield images, StoredTiles(heads[images], lse[images], narrow.within(images), keeping)
