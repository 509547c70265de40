"""Eq. 10 where q and k are at hand: what can act as S of some images, and the propagation of columns by it.

    C̄ = Σ_r w_r Sʳ C    computed as    Y ← w_R C;  Y ← w_r C + S Y  for r = R − 1, …, 0

`StoredMap`      S in memory, n² numbers an image: least arithmetic.
`RowBlocks`      rows of S, block after block, none of which is kept: any device, any size.
`FlashAttention` the device's own attention with value Y: S exists nowhere. On CUDA.

`tiles` has two more, by Triton; all of them give the same labels. A joint layer's keys are text and image keys
under one softmax: C is the text columns of the same map, and rows of S, which then sum to less than 1, may be
divided by their sums.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.attention import head_mean_attention, row_blocks
from ..precision import compute_dtype, full_precision
from .budget import MemoryBudget

ALIGNMENT = 8
"""PyTorch's products are fast where widths are multiples of it."""


@dataclass(frozen=True)
class SelfHeads:
    """What S is made of: q (b, H, n, d) and k (b, H, m, d) of a self-attention or joint layer.

    image      where the n image keys stand among the m; None = they are all.
    kept       (b, m) bool: keys that take part; None = all.
    normalise  divide the rows of S by their sums.
    """

    q: Tensor
    k: Tensor
    scale: float
    image: slice | None = None
    kept: Tensor | None = None
    normalise: bool = False

    def __getitem__(self, images: slice) -> "SelfHeads":
        if images == slice(0, self.q.shape[0]):
            return self
        kept = None if self.kept is None else self.kept[images]
        return SelfHeads(self.q[images], self.k[images], self.scale, self.image, kept, self.normalise)

    @property
    def joint(self) -> bool:
        """Whether there are other keys than the image's."""
        return self.k.shape[2] != self.q.shape[2]


class Operator(ABC):
    """S of some images."""

    @abstractmethod
    def propagate(self, columns: Tensor, power_weights: Sequence[float]) -> Tensor:
        """Σ_r w_r Sʳ X (Eq. 10) for X (b, n, t), which stays as it is; some weight beyond w_0 is above 0."""

    @abstractmethod
    def text_columns(self, text: slice) -> Tensor:
        """C (b, n, L) of a joint layer: the columns of its text keys."""


class Product(Operator):
    """An operator that multiplies columns by S: Eq. 10 by Horner's rule."""

    @abstractmethod
    def apply(self, values: Tensor, base: Tensor, alpha: float, beta: float) -> Tensor:
        """α S Y + β X for Y and X (b, n, t), which stay as they are."""

    @full_precision
    def propagate(self, columns: Tensor, power_weights: Sequence[float]) -> Tensor:
        highest = max(power for power, weight in enumerate(power_weights) if weight > 0)
        result, alpha = columns, power_weights[highest]
        for weight in reversed(power_weights[:highest]):
            result, alpha = self.apply(result, columns, alpha, weight), 1.0
        return result


# ---- PyTorch -----------------------------------------------------------------------------------------------


class StoredMap(Product):
    """S (b, n, n), stored; its rows sum to 1, or to less in a joint layer.

    whole  the maps (b, n, m) over all keys.
    """

    def __init__(self, maps: Tensor, whole: Tensor) -> None:
        self._maps, self._whole = maps, whole

    @classmethod
    def made_of(cls, heads: SelfHeads, budget: MemoryBudget) -> "StoredMap":
        whole = head_mean_attention(heads.q, heads.k, scale=heads.scale, block=budget.block, kept=heads.kept)
        maps = whole if heads.image is None else whole[..., heads.image]
        if heads.normalise:
            maps = maps / maps.sum(dim=-1, keepdim=True)
        return cls(maps, whole)

    def apply(self, values: Tensor, base: Tensor, alpha: float, beta: float) -> Tensor:
        return torch.baddbmm(base, self._maps, values, alpha=alpha, beta=beta)

    def text_columns(self, text: slice) -> Tensor:
        return self._whole[..., text]

    def __getitem__(self, images: slice) -> "StoredMap":
        return StoredMap(self._maps[images], self._whole[images])


class RowBlocks(Product):
    """Rows of S are computed again for every product, and multiplied as soon as they are there."""

    def __init__(self, heads: SelfHeads, budget: MemoryBudget) -> None:
        self._heads, self._budget = heads, budget

    def apply(self, values: Tensor, base: Tensor, alpha: float, beta: float) -> Tensor:
        result = torch.empty_like(base)
        for images, rows, maps in self._blocks():
            own = maps[..., self._heads.image or slice(None)]
            if self._heads.normalise:
                own = own / own.sum(dim=-1, keepdim=True)
            result[images, rows] = torch.baddbmm(base[images, rows], own, values[images], alpha=alpha, beta=beta)
        return result

    def text_columns(self, text: slice) -> Tensor:
        q = self._heads.q
        length = len(range(*text.indices(self._heads.k.shape[2])))
        columns = q.new_empty((len(q), q.shape[2], length), dtype=compute_dtype(q))
        for images, rows, maps in self._blocks():
            columns[images, rows] = maps[..., text]
        return columns

    def _blocks(self) -> Iterator[tuple[slice, slice, Tensor]]:
        heads = self._heads
        return row_blocks(heads.q, heads.k, scale=heads.scale, block=self._budget.block, kept=heads.kept)


class FlashAttention(Operator):
    """S·Y is attention with value Y, all heads at once, in fp16 where the model is in half precision.

    Y goes in as its deviation δ from each column's mean, Y = μ(1 + δ), in which fp16 resolves what labels depend
    on; rows of S sum to 1, so that Σ_r w_r Sʳ Y = μ(1 + Σ_r w_r Sʳ δ).

    Of a joint layer the values of the text keys are 0, and what comes is divided by the image's share of every row.
    There all columns vary with the text's share, g: Y = μ(g + δ), and g is a column of its own. C is the softmax
    over the text alone, times the text's share of every head. Keys are left out by one more channel, in which they
    score `LEAST`.
    """

    def __init__(self, heads: SelfHeads, width: int, budget: MemoryBudget) -> None:
        if heads.joint and not heads.normalise:
            raise ValueError(
                "expected rows of S that sum to 1, got a joint layer's as they are: use another operator"
            )
        half = heads.q.dtype if heads.q.dtype != torch.bfloat16 else torch.float16
        channels, width = heads.q.shape[3] + (heads.kept is not None), width + heads.joint
        self._room = aligned(max(channels, -(-width // _pieces(width))))
        self._q, self._k = (_widened(side, self._room, half) for side in (heads.q, heads.k))
        if heads.kept is not None:
            self._q[..., channels - 1] = 1.0
            self._k[..., channels - 1] = torch.where(heads.kept, 0.0, LEAST)[:, None]
        self._heads, self._image, self._budget = heads, heads.image or slice(None), budget

    def text_columns(self, text: slice) -> Tensor:
        heads = self._heads
        sums, image = self._shares(text, self._image)
        self._image_share = _mean_share(image)
        kept = None if heads.kept is None else heads.kept[:, text]
        keys, block = heads.k[:, :, text], self._budget.block
        columns = head_mean_attention(heads.q, keys, scale=heads.scale, block=block, kept=kept, sums=sums)
        return columns if kept is None else columns.nan_to_num_(0.0)  # a text of which no key is left

    def propagate(self, columns: Tensor, power_weights: Sequence[float]) -> Tensor:
        joint, width = self._heads.joint, columns.shape[2]
        mean = columns.mean(dim=1, keepdim=True)
        values = self._values(width)
        own = values[:, self._image]
        deviation = columns.new_zeros(own.shape)
        relative = torch.div(columns, mean.clamp(min=TINY), out=deviation[..., :width])
        if joint:
            total = relative.sum(dim=2, keepdim=True)
            deviation[..., width : width + 1] = total / total.mean(dim=1, keepdim=True).clamp(min=TINY)
        relative.sub_(deviation[..., width : width + 1] if joint else 1)
        highest = max(power for power, weight in enumerate(power_weights) if weight > 0)
        torch.mul(deviation, power_weights[highest], out=own)
        for weight in reversed(power_weights[1:highest]):
            torch.add(self._apply(values), deviation, alpha=weight, out=own)
        result = self._apply(values)
        if power_weights[0]:
            result = torch.add(result, deviation, alpha=power_weights[0])
        common = mean * result[..., width : width + 1] if joint else mean
        return torch.addcmul(common, mean, result[..., :width])

    def _apply(self, values: Tensor) -> Tensor:
        """S·Y of the image's keys."""
        found = self._attend(values)
        return found.div_(self._image_share) if self._heads.joint else found

    @cached_property
    def _image_share(self) -> Tensor:
        """(b, n, 1): what the image's keys have of every row."""
        (share,) = self._shares(self._image)
        return _mean_share(share)

    def _shares(self, *places: slice) -> tuple[Tensor, ...]:
        """(b, H, n) in fp32 each: what the probabilities of some keys add up to in every row of every head."""
        values = self._k.new_zeros((self._k.shape[0], self._k.shape[2], self._room))
        for column, place in enumerate(places):
            values[:, place, column] = ONE
        return tuple(self._answer(values)[..., : len(places)].float().div_(ONE).unbind(dim=-1))

    @full_precision
    def _answer(self, values: Tensor) -> Tensor:
        """(b, H, n, room) of the attention with values (b, m, room), the same for all heads."""
        shared = values[:, None].expand(-1, self._q.shape[1], -1, -1)
        return F.scaled_dot_product_attention(self._q, self._k, shared, scale=self._heads.scale)

    def _attend(self, values: Tensor) -> Tensor:
        """Head mean (b, n, w) in fp32 of the attention with values (b, m, w), w whole `room`s."""
        pieces = values.split(self._room, dim=2)
        found = [self._answer(some).mean(dim=1, dtype=torch.float32) for some in pieces]
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)

    def _values(self, width: int) -> Tensor:
        """Room for the values of `width` columns, 0 at keys that are not the image's."""
        make, width = (self._k.new_zeros, width + 1) if self._heads.joint else (self._k.new_empty, width)
        return make((self._k.shape[0], self._k.shape[2], -(-width // self._room) * self._room))


TINY = 1e-30
"""Least mean of a column by which it is divided: a column of zeros stays one."""

LEAST_SHARE = 1e-6
"""Of the image's keys, by which a row of S is divided."""

ONE = 2.0**10
"""What stands for a share of 1 in fp16: so small ones keep their digits."""

LEAST = -(2.0**15)
"""A product with q that leaves a key without weight."""

WIDEST = 128
"""Columns that go through one attention."""


def _pieces(width: int) -> int:
    """In how many attentions so many columns go through."""
    return -(-width // WIDEST)


def _mean_share(share: Tensor) -> Tensor:
    return share.mean(dim=1).clamp_(min=LEAST_SHARE)[..., None]


def aligned(width: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def _widened(side: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """q or k with zeros beyond their own d channels, up to `width`: scores stay the same."""
    missing = width - side.shape[3]
    return F.pad(side, (0, missing)).to(dtype) if missing else side.to(dtype)
