"""Eq. 10: self-attention completes the regions that cross-attention begins.

    C̄ = Σ_r w_r Sʳ C,   w = `Settings.power_weights`; the paper's is (1/R) Σ_{r=1..R} Sʳ C with R = 4

where S (n×n) and C (n×L) are the maps of one transformer block. It is computed as X ← S X with a running sum:
Sʳ itself is never formed (n³). There are two things that can act as S:

`StoredAttention`   the map itself, n² numbers per image: least arithmetic;
`MatrixFree`        q and k: S X = mean over heads of softmax(q kᵀ·scale) X, which is attention with value X,
                    so memory is O(n·L) at any size and each power costs an attention. On a CPU: block after
                    block of the rows of S, none of which is kept.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import CPU_BLOCK_MIB, attention_blocks
from .precision import compute_dtype, full_precision


class SelfAttention(Protocol):
    """Something that can multiply columns by the S of one image."""

    def apply(self, columns: Tensor) -> Tensor:
        """S·X for X (n, t), same shape, dtype and device as X."""
        ...


@dataclass(frozen=True)
class StoredAttention:
    """S (n, n) of one image, rows sum to 1."""

    maps: Tensor

    @full_precision
    def apply(self, columns: Tensor) -> Tensor:
        return self.maps.to(columns.dtype) @ columns


@dataclass(frozen=True)
class MatrixFree:
    """q (H, n, d) and k (H, m, d) of one image, from which S·X is computed without S.

    `image`: where the n image keys stand among the m; text keys get the value 0 (the joint form).
    `block_mib`: MiB of one block of S on a CPU.
    """

    q: Tensor
    k: Tensor
    scale: float | None = None
    image: slice = field(default_factory=lambda: slice(None))
    block_mib: float = CPU_BLOCK_MIB

    def apply(self, columns: Tensor) -> Tensor:
        return self.attend(columns, self.image)

    @full_precision
    def attend(self, columns: Tensor, keys: slice) -> Tensor:
        """Head-averaged attention (n, t) whose value is X at `keys` and 0 elsewhere, in X's dtype.

        A CPU multiplies every block of rows of S as soon as it is there, which is cheaper than an attention.
        """
        dtype = compute_dtype(self.q)
        result = columns.new_zeros((self.q.shape[1], columns.shape[1]), dtype=dtype)
        add = self._add_blocks if self.q.device.type == "cpu" else self._add_attention
        add(result, columns.to(dtype), keys)
        return (result / len(self.q)).to(columns.dtype)

    def _add_blocks(self, result: Tensor, columns: Tensor, keys: slice) -> None:
        total: Tensor | None = None
        for rows, head, shares in attention_blocks(self.q, self.k, self.scale, self.block_mib):
            total = shares.clone() if total is None else total.add_(shares)
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


def propagate(attention: SelfAttention | None, columns: Tensor, power_weights: tuple[float, ...]) -> Tensor:
    """Σ_r w_r Sʳ X (Eq. 10) for X (n, t), in X's dtype; `attention` may be None where only w_0 is not zero."""
    needed = max(power for power, weight in enumerate(power_weights) if weight > 0)
    total = columns * power_weights[0]
    for weight in power_weights[1 : needed + 1]:
        assert attention is not None
        columns = attention.apply(columns)
        total = torch.add(total, columns, alpha=weight)
    return total


def needs_self_attention(power_weights: tuple[float, ...]) -> bool:
    """Whether any weight beyond S⁰ is in use."""
    return any(weight > 0 for weight in power_weights[1:])
