"""The ways of computing what acts as S of a layer, and its C, from q and k; all give the same labels.

stored       S in blocks of rows (`StoredAttention`).
fused        the same blocks also give the layer's output, so q kᵀ is computed once.
matrix_free  no S at all (`MatrixFree`): where S does not fit the budget.

Which of them is a matter of sizes and the budget (`Relief.stores`), never of free memory.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import head_mean_attention
from .precision import compute_dtype
from .propagation import MatrixFree, RowNormalised, SelfAttention, StoredAttention
from .relief import Relief

Operators = Sequence[SelfAttention]
"""What can act as S, image by image."""


def self_operators(q: Tensor, k: Tensor, scale: float | None, count: int, relief: Relief) -> Operators:
    """Operators of self-attention q, k (b, H, n, d), for some of the `count` images of a call."""

    def compute() -> Operators:
        if not relief.stores(q, count):
            return _free(q, k, scale, relief)
        maps, _ = head_mean_attention(q, k, scale=scale, block_mib=relief.block_mib(q))
        return [StoredAttention(own) for own in maps]

    return relief.run(compute)


def attended(q: Tensor, k: Tensor, v: Tensor, scale: float | None, relief: Relief) -> tuple[Tensor, Operators]:
    """The layer's output softmax(q kᵀ)·v (b, H, n, d), and its operators: fused where S is stored."""

    def compute() -> tuple[Tensor, Operators]:
        if not relief.stores(q):
            return F.scaled_dot_product_attention(q, k, v, scale=scale), _free(q, k, scale, relief)
        maps, output = head_mean_attention(q, k, v=v, scale=scale, block_mib=relief.block_mib(q))
        assert output is not None
        return output, [StoredAttention(own) for own in maps]

    return relief.run(compute)


def cross_maps(q: Tensor, k: Tensor, scale: float | None, relief: Relief) -> Tensor:
    """C (b, n, m) of q (b, H, n, d) and text keys k (b, H, m, d)."""
    return relief.run(lambda: head_mean_attention(q, k, scale=scale, block_mib=relief.block_mib(q))[0])


def joint(
    q: Tensor,
    k: Tensor,
    scale: float | None,
    relief: Relief,
    *,
    text: slice,
    image: slice,
    normalise: bool,
) -> tuple[Tensor, Operators]:
    """C (b, n, L) and operators of a layer whose keys (b, H, m, d) are text and image keys in one softmax.

    normalise  divide the rows of S by their sums, which are below 1.
    """

    def compute() -> tuple[Tensor, Operators]:
        cross, operators, sums = (_split_stored if relief.stores(q) else _split_free)(
            q, k, scale, relief, text, image
        )
        if not normalise:
            return cross, operators
        return cross, [RowNormalised(own, each) for own, each in zip(operators, sums, strict=True)]

    return relief.run(compute)


def _split_stored(
    q: Tensor, k: Tensor, scale: float | None, relief: Relief, text: slice, image: slice
) -> tuple[Tensor, Operators, Tensor]:
    """C, operators, and the sums (b, n, 1) of the rows of S."""
    maps, _ = head_mean_attention(q, k, scale=scale, block_mib=relief.block_mib(q))
    own = maps[:, :, image]
    return maps[:, :, text], [StoredAttention(each) for each in own], own.sum(dim=-1, keepdim=True)


def _split_free(
    q: Tensor, k: Tensor, scale: float | None, relief: Relief, text: slice, image: slice
) -> tuple[Tensor, Operators, Tensor]:
    """The same, without S."""
    free = _free(q, k, scale, relief, image)
    length = len(range(*text.indices(k.shape[2])))
    identity = torch.eye(length, device=q.device, dtype=compute_dtype(q))
    cross = torch.stack([each.attend(identity, text) for each in free])
    ones = cross.new_ones((q.shape[2], 1))
    return cross, free, torch.stack([each.apply(ones) for each in free])


def _free(
    q: Tensor, k: Tensor, scale: float | None, relief: Relief, image: slice = slice(None)
) -> Sequence[MatrixFree]:
    block_mib = relief.block_mib(q)
    return [MatrixFree(own, key, scale, image, block_mib) for own, key in zip(q, k, strict=True)]
