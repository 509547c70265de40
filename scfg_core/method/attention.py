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

from ..errors import ShapeError
from ..precision import compute_dtype, full_precision

CPU_BLOCK_MIB = 2.0
"""One block of scores on a CPU: small enough to stay in the cache of one core."""

BLOCK_MIB = 64.0
"""One block of scores on other devices: large enough to fill them."""

MIB = 1024 * 1024


def check_heads(q: Tensor, k: Tensor) -> None:
    """Raise `ShapeError` unless q (b, H, n, d) and k (b, H, m, d) fit together."""
    if not (q.ndim == k.ndim == 4 and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]):
        raise ShapeError(
            f"expected q (b, heads, n, d) and k (b, heads, m, d), got q {tuple(q.shape)} and k {tuple(k.shape)}: "
            "split the heads before observing, and pass q and k of the same call"
        )


def block_mib_of(device: torch.device, budget_mib: float) -> float:
    """MiB of scores that may exist at a time on a device, at most an eighth of the budget."""
    return min(CPU_BLOCK_MIB if device.type == "cpu" else BLOCK_MIB, budget_mib / 8)


@full_precision
def head_mean_attention(
    q: Tensor, k: Tensor, *, scale: float | None = None, block_mib: float = CPU_BLOCK_MIB
) -> Tensor:
    """A (b, n, m) of Eq. 8 in fp32 (fp64 for fp64 input). `scale` defaults to d^−½.

    One head of one block of rows is computed at a time. Raises `ShapeError` where q, k do not fit together.
    """
    check_heads(q, k)
    maps = q.new_zeros((q.shape[0], q.shape[2], k.shape[2]), dtype=compute_dtype(q))
    for image in range(len(q)):
        for rows, _, probabilities in attention_blocks(q[image], k[image], scale, block_mib):
            maps[image, rows] += probabilities
    return maps.div_(q.shape[1])


def attention_blocks(
    q: Tensor, k: Tensor, scale: float | None, block_mib: float
) -> Iterator[tuple[slice, int, Tensor]]:
    """Blocks of softmax(q kᵀ · scale) of one image: (rows, head, probabilities (rows, m)), all heads of some rows
    in turn.

    q (H, n, d), k (H, m, d). The next block is computed in the same memory.
    """
    dtype = compute_dtype(q)
    heads, n, width = q.shape
    factor = width**-0.5 if scale is None else scale
    keys = k.to(dtype).transpose(1, 2)
    step = max(1, min(n, int(block_mib * MIB) // (k.shape[1] * dtype.itemsize)))
    scores = q.new_empty((step, k.shape[1]), dtype=dtype)
    probabilities = scores if q.device.type == "cpu" else torch.empty_like(scores)  # a CPU's softmax works in place
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        count = rows.stop - first
        queries = q[:, rows].to(dtype) * factor
        for head in range(heads):
            torch.mm(queries[head], keys[head], out=scores[:count])
            torch.softmax(scores[:count], dim=-1, out=probabilities[:count])
            yield rows, head, probabilities[:count]
