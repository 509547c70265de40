"""Eq. 8 in PyTorch's operations: all heads in as few calls as a budget of bytes allows, on any device.

    A = (1/H) Σ_h softmax(q_h kᵀ_h · scale)

where q (b, H, n, d) and k (b, H, m, d), and A is (b, n, m) with rows that sum to 1: S with image keys, C with text
keys, both as column blocks of one A where a layer attends jointly. Scores and softmax are fp32 (fp64 for fp64
input): S in bf16 changes up to 16 % of the labels. `attend` gives A·Y without A, by the device's own attention.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import compute_dtype, full_precision

FEW_ROWS = 128
"""Fewer rows of scores than this are slow to multiply: then some heads at a time rather than all."""


@full_precision
def head_mean(
    q: Tensor, k: Tensor, scale: float, block: int, *, kept: Tensor | None = None, width: int | None = None
) -> Tensor:
    """A (b, n, width) of Eq. 8, 0 beyond the m keys.

    kept   (b, m) bool: keys that take part.
    block  bytes of scores that may exist at a time.
    """
    batch, _, n, _ = q.shape
    m = k.shape[2]
    maps = q.new_zeros((batch, n, width or m), dtype=compute_dtype(q))
    for _ in row_blocks(q, k, scale, block, kept=kept, out=maps[..., :m]):
        pass
    return maps


def row_blocks(
    q: Tensor, k: Tensor, scale: float, block: int, *, kept: Tensor | None = None, out: Tensor | None = None
) -> Iterator[tuple[slice, slice, Tensor]]:
    """A in blocks: (images, rows, A of them (…, …, m)), written into zeros `out` (b, n, m) where it is given.

    Several images at a time, or rows of one; some heads at a time rather than fewer than `FEW_ROWS` rows.
    """
    batch, heads, n, _ = q.shape
    m = k.shape[2]
    score = compute_dtype(q).itemsize * (1 if q.device.type == "cpu" else 2)  # a CPU's softmax works in place
    together = 1 if q.device.type == "cpu" else max(1, block // (n * heads * m * score))
    height = min(n, max(block // (heads * m * score), FEW_ROWS))
    together = min(together, batch)
    step = min(heads, max(1, block // (together * height * m * score)))
    scores = q.new_empty(together * step * height * m, dtype=compute_dtype(q))
    for first in range(0, batch, together):
        images = slice(first, min(first + together, batch))
        keys = _stacked(k[images], compute_dtype(k)) * scale
        mask = None if kept is None else ~kept[images, None, None]
        for top in range(0, n, height):
            rows = slice(top, min(top + height, n))
            size = (images.stop - first, rows.stop - top, m)
            maps = out[images, rows] if out is not None else keys.new_zeros(size)
            _add_mean(maps, q[images, :, rows], keys, scores, mask)
            yield images, rows, maps


@full_precision
def attend(q: Tensor, k: Tensor, values: Tensor, scale: float) -> Tensor:
    """A·Y (b, n, t) in fp32 without A: the head mean of the device's own attention with values Y (b, m, t), in Y's
    dtype, which is q's; t is at most d.
    """
    shared = values[:, None].expand(-1, q.shape[1], -1, -1)
    return F.scaled_dot_product_attention(q, k, shared, scale=scale).mean(dim=1, dtype=torch.float32)


def _add_mean(out: Tensor, q: Tensor, keys: Tensor, memory: Tensor, mask: Tensor | None) -> None:
    """Write the head mean of some rows into zeros (b, r, m), so many heads at a time as fit `memory`.

    keys (b·H, m, d), times the scale
    """
    batch, heads, rows, _ = q.shape
    m = keys.shape[1]
    step = min(heads, memory.numel() // (batch * rows * m))
    for first in range(0, heads, step):
        part = q[:, first : first + step]
        some = keys if step == heads else keys.unflatten(0, (batch, heads))[:, first : first + step].flatten(0, 1)
        scores = memory[: len(some) * rows * m].view(len(some), rows, m)
        torch.bmm(_stacked(part, keys.dtype), some.transpose(1, 2), out=scores)
        scores = scores.unflatten(0, part.shape[:2])
        if mask is not None:
            scores.masked_fill_(mask, -torch.inf)
        shares = torch.softmax(scores, dim=-1, out=scores if scores.device.type == "cpu" else None)
        if step == heads:
            torch.mean(shares, dim=1, out=out)
        else:
            out.add_(shares[:, 0] if step == 1 else shares.sum(dim=1), alpha=1 / heads)


def _stacked(side: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, H, n, d) → (b·H, n, d) in a dtype: the host's own memory where one image's already has it."""
    if len(side) == 1:
        return side[0].to(dtype)
    copy = torch.empty_like(side, dtype=dtype, memory_format=torch.contiguous_format).copy_(side)
    return copy.flatten(0, 1)
