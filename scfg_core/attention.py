"""Eq. 8: head-averaged attention probabilities from the q and k of a layer, in blocks.

    A = mean over heads of softmax(q kᵀ · scale)

where q (b, H, n, d) and k (b, H, m, d), and A is (b, n, m) with rows that sum to 1. With image keys A is the
self-attention map S (m = n), with text keys the cross-attention map C (m = L). A layer that attends jointly
over [text; image] keys gives both as column blocks of one A.

No more than one block of rows of every head's scores exists at a time. The softmax is taken in fp32 (fp64 for
fp64 input): S in bf16 changes up to 16 % of the labels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from .errors import ShapeError, expect

BLOCK_MIB = 8.0
"""Default size of one block of scores: small enough for a CPU's cache, large enough for a GPU's."""

MIB = 1024 * 1024


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """fp64 stays; everything else is computed in fp32."""
    return torch.promote_types(tensor.dtype, torch.float32)


def check_heads(q: Tensor, k: Tensor) -> None:
    """Raise `ShapeError` unless q (b, H, n, d) and k (b, H, m, d) fit together."""
    fits = q.ndim == 4 and k.ndim == 4 and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]
    expect(
        fits,
        ShapeError,
        "q (b, heads, n, d) and k (b, heads, m, d)",
        f"q {tuple(q.shape)} and k {tuple(k.shape)}",
        "split the heads before observing, and pass q and k of the same call",
    )


def head_mean_attention(
    q: Tensor,
    k: Tensor,
    *,
    v: Tensor | None = None,
    scale: float | None = None,
    block_mib: float = BLOCK_MIB,
) -> tuple[Tensor, Tensor | None]:
    """A (b, n, m) of Eq. 8 and, given v (b, H, m, e), the layer's own output softmax(q kᵀ)·v (b, H, n, e).

    The output costs no second q kᵀ, and has v's dtype; A is fp32 (fp64 for fp64 input). `scale` defaults to
    d^−½. Raises `ShapeError` where q, k do not fit together.
    """
    check_heads(q, k)
    batch, heads, n, _ = q.shape
    maps = q.new_empty((batch, n, k.shape[2]), dtype=compute_dtype(q))
    output = None if v is None else v.new_empty((batch, heads, n, v.shape[3]))
    for image in range(batch):
        values = None if v is None else v[image].to(maps.dtype)
        for rows, weights, total in exponentials(q[image], k[image], scale, block_mib):
            inverse = total.reciprocal()
            torch.mul(weights[0], inverse[0] / heads, out=maps[image, rows])
            for head in range(1, heads):
                maps[image, rows].addcmul_(weights[head], inverse[head] / heads)
            if output is not None and values is not None:
                output[image, :, rows] = torch.bmm(weights, values).mul_(inverse).to(output.dtype)
    return maps, output


def exponentials(
    q: Tensor, k: Tensor, scale: float | None, block_mib: float
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of exp(score − row maximum) of one image: (rows, weights (H, rows, m), their row sums (H, rows, 1)).

    q (H, n, d), k (H, m, d). The weights are a fresh tensor in each block; at most `block_mib` MiB of scores exist.
    """
    dtype = compute_dtype(q)
    heads, n, width = q.shape
    keys = (k.to(dtype) * (width**-0.5 if scale is None else scale)).transpose(1, 2)
    bytes_per_row = heads * k.shape[1] * keys.element_size()
    step = max(1, min(n, int(block_mib * MIB) // bytes_per_row))
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        scores = torch.bmm(q[:, rows].to(dtype), keys)
        weights = scores.sub_(scores.amax(dim=-1, keepdim=True)).exp_()
        yield rows, weights, weights.sum(dim=-1, keepdim=True)
