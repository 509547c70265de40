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
from .precision import compute_dtype, full_precision

CPU_BLOCK_MIB = 2.0
"""One block of scores on a CPU: small enough to stay in the cache of one core."""

BLOCK_MIB = 64.0
"""One block of scores on other devices: large enough to fill them."""

MIB = 1024 * 1024


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


def block_mib_of(device: torch.device, budget_mib: float) -> float:
    """MiB of scores that may exist at a time on a device, at most an eighth of the budget."""
    return min(CPU_BLOCK_MIB if device.type == "cpu" else BLOCK_MIB, budget_mib / 8)


@full_precision
def head_mean_attention(
    q: Tensor,
    k: Tensor,
    *,
    v: Tensor | None = None,
    scale: float | None = None,
    block_mib: float = CPU_BLOCK_MIB,
) -> tuple[Tensor, Tensor | None]:
    """A (b, n, m) of Eq. 8 and, given v (b, H, m, e), the layer's own output softmax(q kᵀ)·v (b, H, n, e).

    The output costs no second q kᵀ, and has v's dtype; A is fp32 (fp64 for fp64 input). `scale` defaults to
    d^−½. One head of one block of rows is computed at a time. Shares and v are multiplied in bf16 where v has it
    and the processor is fast at it, as the fused attention kernels do. Raises `ShapeError` where q, k do not fit
    together.
    """
    check_heads(q, k)
    batch, heads, n, _ = q.shape
    maps = q.new_zeros((batch, n, k.shape[2]), dtype=compute_dtype(q))
    output = None if v is None else v.new_empty((batch, heads, n, v.shape[3]))
    for image in range(batch):
        values = None if v is None else v[image].to(_product_dtype(v))
        for rows, head, shares in attention_blocks(q[image], k[image], scale, block_mib):
            maps[image, rows] += shares
            if output is not None and values is not None:
                output[image, head, rows] = shares.to(values.dtype) @ values[head]
    return maps.div_(heads), output


def _product_dtype(v: Tensor) -> torch.dtype:
    """In which dtype shares and v are multiplied."""
    fast = v.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return v.dtype if v.dtype == torch.bfloat16 and fast else compute_dtype(v)


def attention_blocks(
    q: Tensor, k: Tensor, scale: float | None, block_mib: float
) -> Iterator[tuple[slice, int, Tensor]]:
    """Blocks of softmax(q kᵀ · scale) of one image: (rows, head, shares (rows, m)), all heads of some rows in turn.

    q (H, n, d), k (H, m, d). The next block is computed in the same memory.
    """
    dtype = compute_dtype(q)
    heads, n, width = q.shape
    factor = width**-0.5 if scale is None else scale
    keys = k.to(dtype).transpose(1, 2)
    step = max(1, min(n, int(block_mib * MIB) // (k.shape[1] * dtype.itemsize)))
    scores = q.new_empty((step, k.shape[1]), dtype=dtype)
    shares = scores if q.device.type == "cpu" else torch.empty_like(scores)  # a CPU's softmax works in place
    for first in range(0, n, step):
        rows = slice(first, min(first + step, n))
        count = rows.stop - first
        queries = q[:, rows].to(dtype) * factor
        for head in range(heads):
            torch.mm(queries[head], keys[head], out=scores[:count])
            torch.softmax(scores[:count], dim=-1, out=shares[:count])
            yield rows, head, shares[:count]
