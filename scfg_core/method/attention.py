"""Eq. 8: head-averaged attention probabilities of a layer, from q and k: all heads at once, as far as a block goes.

    A = (1/H) Σ_h softmax(q_h kᵀ_h · scale)

where q (b, H, n, d) and k (b, H, m, d), and A is (b, n, m) with rows that sum to 1. With image keys A is the
self-attention map S (m = n), with text keys the cross-attention map C (m = L). A layer that attends jointly over
[text; image] keys gives both as column blocks of one A. The scores and the softmax are fp32 (fp64 for fp64 input):
S in bf16 changes up to 16 % of the labels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import ShapeError
from ..precision import compute_dtype, full_precision

BLOCK = 2 * 1024 * 1024
"""Bytes of scores that exist at a time: they stay in the cache of a core of a CPU."""

FEW_ROWS = 128
"""Fewer rows of scores than this are slow to multiply: then some heads at a time rather than all."""


@full_precision
def head_mean_attention(
    q: Tensor,
    k: Tensor,
    *,
    scale: float | None = None,
    block: int = BLOCK,
    kept: Tensor | None = None,
    width: int | None = None,
) -> Tensor:
    """A (b, n, width) of Eq. 8, 0 beyond the m keys, in fp32 (fp64 for fp64 input).

    scale  of q kᵀ; None = d^−½.
    block  bytes of scores that may exist at a time.
    kept   (b, m) bool: keys that take part; None = all.
    width  None = m.

    Raises `ShapeError` where q, k do not fit together.
    """
    if not (q.ndim == k.ndim == 4 and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]):
        raise ShapeError(
            f"expected q (b, heads, n, d) and k (b, heads, m, d), got q {tuple(q.shape)} and k {tuple(k.shape)}: "
            "split the heads before observing, and pass q and k of the same call"
        )
    m = k.shape[2]
    maps = q.new_zeros((q.shape[0], q.shape[2], width or m), dtype=compute_dtype(q))
    for _ in row_blocks(q, k, scale=scale, block=block, kept=kept, out=maps[..., :m]):
        pass
    return maps


def row_blocks(
    q: Tensor,
    k: Tensor,
    *,
    scale: float | None = None,
    block: int = BLOCK,
    kept: Tensor | None = None,
    out: Tensor | None = None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """A in blocks: (images, rows, A of them (…, …, m)), written into zeros `out` (b, n, m) where it is given.

    Several images at a time, or rows of one; some heads at a time rather than fewer than `FEW_ROWS` rows.
    """
    batch, heads, n, width = q.shape
    m, factor = k.shape[2], width**-0.5 if scale is None else scale
    score = compute_dtype(q).itemsize * (1 if q.device.type == "cpu" else 2)  # a CPU's softmax works in place
    together = max(1, block // (n * heads * m * score))
    height = min(n, max(block // (heads * m * score), FEW_ROWS))
    together = min(together, batch)
    step = min(heads, max(1, block // (together * height * m * score)))
    scores = q.new_empty(together * step * height * m, dtype=compute_dtype(q))
    for first in range(0, batch, together):
        images = slice(first, min(first + together, batch))
        keys = _stacked(k[images], compute_dtype(k)) * factor
        mask = None if kept is None else ~kept[images, None, None]
        for top in range(0, n, height):
            rows = slice(top, min(top + height, n))
            size = (images.stop - first, rows.stop - top, m)
            maps = out[images, rows] if out is not None else keys.new_zeros(size)
            _add_mean(maps, q[images, :, rows], keys, scores, mask)
            yield images, rows, maps


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
        stacked = some.shape[0]
        scores = memory[: stacked * rows * m].view(stacked, rows, m)
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
    if side.shape[0] == 1:  # `len` of a tensor is slow
        return side[0].to(dtype)
    if side.dtype == dtype:
        return side.flatten(0, 1)
    copy = torch.empty_like(side, dtype=dtype, memory_format=torch.contiguous_format).copy_(side)
    return copy.flatten(0, 1)
