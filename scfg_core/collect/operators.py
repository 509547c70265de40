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

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.attention import head_mean_attention, row_blocks
from ..precision import compute_dtype, full_precision
from .budget import MemoryBudget


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

    def text_columns(self, text: slice) -> Tensor:
        """C (b, n, L) of a joint layer: the columns of its text keys."""
        raise NotImplementedError(f"{type(self).__name__} does not serve joint layers")


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
    on; rows of S sum to 1, so that Σ_r w_r Sʳ Y = μ(1 + Σ_r w_r Sʳ δ). Not for joint layers, nor where keys are
    left out.
    """

    def __init__(self, heads: SelfHeads, width: int) -> None:
        if heads.joint or heads.kept is not None:
            raise ValueError(
                "expected self-attention over all its keys, got a joint or a cut one: use another operator"
            )
        dtype = heads.q.dtype if heads.q.dtype != torch.bfloat16 else torch.float16
        self._room = max(heads.q.shape[3], width)
        self._q, self._k = (_widened(side, self._room, dtype) for side in (heads.q, heads.k))
        self._scale = heads.scale

    @full_precision
    def propagate(self, columns: Tensor, power_weights: Sequence[float]) -> Tensor:
        batch, n, width = columns.shape
        mean = columns.mean(dim=1, keepdim=True)
        deviation = columns.new_zeros((batch, n, self._room))
        torch.div(columns, mean.clamp(min=TINY), out=deviation[..., :width]).sub_(1)
        highest = max(power for power, weight in enumerate(power_weights) if weight > 0)
        values = torch.mul(deviation, power_weights[highest], out=self._halves(deviation))
        for weight in reversed(power_weights[1:highest]):
            values = torch.add(self._attend(values), deviation, alpha=weight, out=self._halves(deviation))
        result = self._attend(values)
        if power_weights[0]:
            result = torch.add(result, deviation, alpha=power_weights[0])
        return torch.addcmul(mean, mean, result[..., :width])

    def _attend(self, values: Tensor) -> Tensor:
        """Head mean (b, n, room) in fp32 of the attention with values (b, n, room)."""
        shared = values[:, None].expand(-1, self._q.shape[1], -1, -1)
        answer = F.scaled_dot_product_attention(self._q, self._k, shared, scale=self._scale)
        return answer.mean(dim=1, dtype=torch.float32)

    def _halves(self, like: Tensor) -> Tensor:
        return torch.empty_like(like, dtype=self._q.dtype)


TINY = 1e-30
"""Least mean of a column by which it is divided: a column of zeros stays one."""


def _widened(side: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """q or k with zeros beyond their own d channels, up to `width`: scores stay the same."""
    missing = width - side.shape[3]
    return F.pad(side, (0, missing)).to(dtype) if missing else side.to(dtype)
