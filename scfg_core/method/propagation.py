"""Eq. 10: self-attention completes the regions that cross-attention begins.

    C̄ = Σ_r w_r Sʳ C,   w = `Settings.power_weights`; the paper's is (1/R) Σ_{r=1..R} Sʳ C with R = 4

where S (n×n) and C (n×L) are the maps of one transformer block. It is computed as X ← S X with a running sum:
Sʳ itself is never formed (n³). Relative to the authors' code: they recompute S·S in their loop, which makes
(S + 3·S²)/4 C; that is w = (0, ¼, ¾).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ShapeError
from ..precision import full_precision


class SelfAttention(Protocol):
    """Something that multiplies columns by the S of one image."""

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


def propagate(attention: SelfAttention | None, columns: Tensor, power_weights: tuple[float, ...]) -> Tensor:
    """Σ_r w_r Sʳ X (Eq. 10) for X (n, t), in X's dtype; `attention` may be None where only w_0 is not zero."""
    total = columns * power_weights[0]
    if attention is None:
        if needs_self_attention(power_weights):
            raise ShapeError(f"expected self-attention for powers {power_weights}, got None: pass it, or use (1,)")
        return total
    needed = max(power for power, weight in enumerate(power_weights) if weight > 0)
    for weight in power_weights[1 : needed + 1]:
        columns = attention.apply(columns)
        total = torch.add(total, columns, alpha=weight)
    return total


def needs_self_attention(power_weights: tuple[float, ...]) -> bool:
    """Whether any weight beyond S⁰ is in use."""
    return any(weight > 0 for weight in power_weights[1:])
