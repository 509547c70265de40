"""What acts as S of a layer, and its C, from q and k; every backend gives the same labels.

stored       S in blocks of rows (`StoredAttention`): n² numbers per image, least arithmetic.
matrix_free  no S at all (`MatrixFree`): where S does not fit the budget.

Which of them is a matter of sizes and the budget (`MemoryBudget.stores`), never of free memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..method.attention import CPU_BLOCK_MIB, attention_blocks, head_mean_attention
from ..method.propagation import SelfAttention, StoredAttention
from ..precision import compute_dtype, full_precision
from .budget import MemoryBudget

Operators = Sequence[SelfAttention]
"""What acts as S, one per image."""


def self_operators(q: Tensor, k: Tensor, scale: float | None, count: int, budget: MemoryBudget) -> Operators:
    """S of self-attention q, k (b, H, n, d), for some of the `count` images of a call."""

    def compute() -> Operators:
        if not budget.stores(q, count):
            return _free(q, k, scale, budget, range(k.shape[2]))
        return [
            StoredAttention(maps) for maps in head_mean_attention(q, k, scale=scale, block_mib=budget.block_mib(q))
        ]

    return budget.run(compute)


def cross_maps(q: Tensor, k: Tensor, scale: float | None, budget: MemoryBudget) -> Tensor:
    """C (b, n, m) of q (b, H, n, d) and text keys k (b, H, m, d)."""
    return budget.run(lambda: head_mean_attention(q, k, scale=scale, block_mib=budget.block_mib(q)))


def joint_maps(
    q: Tensor, k: Tensor, scale: float | None, budget: MemoryBudget, text: range, image: range, normalise: bool
) -> tuple[Tensor, Operators]:
    """C (b, n, L) and S of a layer whose keys (b, H, m, d) are text and image keys in one softmax.

    normalise  divide the rows of S by their sums, which are below 1.
    """

    def compute() -> tuple[Tensor, Operators]:
        split = _split_stored if budget.stores(q) else _split_free
        cross, operators, sums = split(q, k, scale, budget, text, image)
        if not normalise:
            return cross, operators
        return cross, [RowNormalised(s, row_sums) for s, row_sums in zip(operators, sums, strict=True)]

    return budget.run(compute)


@dataclass(frozen=True)
class MatrixFree:
    """q (H, n, d) and k (H, m, d) of one image: S X = mean over heads of softmax(q kᵀ·scale) X, without S.

    Memory is O(n·t) at any size, and each power costs an attention.

    image      where the n image keys stand among the m; text keys get the value 0 (the joint form).
    block_mib  MiB of one block of S on a CPU.
    """

    q: Tensor
    k: Tensor
    scale: float | None
    image: range
    block_mib: float = CPU_BLOCK_MIB

    def apply(self, columns: Tensor) -> Tensor:
        return self.attend(columns, self.image)

    @full_precision
    def attend(self, columns: Tensor, keys: range) -> Tensor:
        """Head-averaged attention (n, t) whose value is X (len(keys), t) at `keys` and 0 elsewhere, in X's
        dtype."""
        dtype = compute_dtype(self.q)
        result = columns.new_zeros((self.q.shape[1], columns.shape[1]), dtype=dtype)
        add = self._add_blocks if self.q.device.type == "cpu" else self._add_attention
        add(result, columns.to(dtype), slice(keys.start, keys.stop))
        return (result / len(self.q)).to(columns.dtype)

    def _add_blocks(self, result: Tensor, columns: Tensor, keys: slice) -> None:
        """A CPU multiplies every block of rows of S as soon as it is there, which is cheaper than an attention."""
        total: Tensor | None = None
        for rows, head, probabilities in attention_blocks(self.q, self.k, self.scale, self.block_mib):
            total = probabilities.clone() if total is None else total.add_(probabilities)
            if head == len(self.q) - 1:
                torch.mm(total[:, keys], columns, out=result[rows])
                total = None  # before the next one is made

    def _add_attention(self, result: Tensor, columns: Tensor, keys: slice) -> None:
        """A value wider than d falls off the fast attention kernels, so X goes in d columns at a time."""
        width = self.q.shape[2]
        for first in range(0, columns.shape[1], width):
            part = columns[:, first : first + width]
            value = columns.new_zeros((1, 1, self.k.shape[1], width))
            value[0, 0, keys, : part.shape[1]] = part
            for head in range(len(self.q)):
                query, key = (side[head].to(columns.dtype)[None, None] for side in (self.q, self.k))
                answer = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
                result[:, first : first + width] += answer[0, 0, :, : part.shape[1]]


@dataclass(frozen=True)
class RowNormalised:
    """S with its rows divided by their sums (n, 1): for the joint form, where text keys take a share."""

    attention: SelfAttention
    row_sums: Tensor

    def apply(self, columns: Tensor) -> Tensor:
        return self.attention.apply(columns) / self.row_sums.to(columns.dtype)


Split = tuple[Tensor, Operators, Tensor]
"""C (b, n, L), S, and the sums (b, n, 1) of the rows of S."""


def _split_stored(
    q: Tensor, k: Tensor, scale: float | None, budget: MemoryBudget, text: range, image: range
) -> Split:
    maps = head_mean_attention(q, k, scale=scale, block_mib=budget.block_mib(q))
    own = maps[:, :, image.start : image.stop]
    return maps[:, :, text.start : text.stop], [StoredAttention(s) for s in own], own.sum(dim=-1, keepdim=True)


def _split_free(
    q: Tensor, k: Tensor, scale: float | None, budget: MemoryBudget, text: range, image: range
) -> Split:
    free = _free(q, k, scale, budget, image)
    identity = torch.eye(len(text), device=q.device, dtype=compute_dtype(q))
    cross = torch.stack([attention.attend(identity, text) for attention in free])
    ones = cross.new_ones((q.shape[2], 1))
    return cross, free, torch.stack([attention.apply(ones) for attention in free])


def _free(q: Tensor, k: Tensor, scale: float | None, budget: MemoryBudget, image: range) -> list[MatrixFree]:
    block_mib = budget.block_mib(q)
    return [MatrixFree(queries, keys, scale, image, block_mib) for queries, keys in zip(q, k, strict=True)]
