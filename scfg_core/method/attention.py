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

VECTOR = 16
"""On a CPU the softmax works in place where rows are whole numbers of so many scores; else that would be slow."""

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
    sums: Tensor | None = None,
) -> Tensor:
    """A (b, n, width) of Eq. 8, 0 beyond the m keys, in fp32 (fp64 for fp64 input).

    scale  of q kᵀ; None = d^−½.
    block  bytes of scores that may exist at a time.
    kept   (b, m) bool: keys that take part; None = all.
    width  None = m.
    sums   (b, H, n) what the rows of a head sum to; None = 1.

    Raises `ShapeError` where q, k do not fit together.
    """
    if not (q.ndim == k.ndim == 4 and q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]):
        raise ShapeError(
            f"expected q (b, heads, n, d) and k (b, heads, m, d), got q {tuple(q.shape)} and k {tuple(k.shape)}: "
            "split the heads before observing, and pass q and k of the same call"
        )
    m, width = k.shape[2], width or k.shape[2]
    make = q.new_empty if width == m else q.new_zeros
    maps = make((q.shape[0], q.shape[2], width), dtype=compute_dtype(q))
    out = maps if width == m else maps[..., :m]
    for _ in row_blocks(q, k, scale=scale, block=block, kept=kept, out=out, sums=sums):
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
    sums: Tensor | None = None,
) -> Iterator[tuple[slice, slice, Tensor]]:
    """A in blocks: (images, rows, A of them (…, …, m)), written into `out` (b, n, m) where it is given.

    Several images at a time, or rows of one; some heads at a time rather than fewer than `FEW_ROWS` rows.
    """
    batch, heads, n, width = q.shape
    m, dtype, factor = k.shape[2], compute_dtype(q), width**-0.5 if scale is None else scale
    score = dtype.itemsize * (1 if _in_place(q.device, m) else 2)
    together = min(max(1, block // (n * heads * m * score)), batch)
    height = min(n, max(block // (heads * m * score), FEW_ROWS))
    step = min(heads, max(1, block // (together * height * m * score)))
    scores = q.new_empty(together * step * height * m, dtype=dtype)
    for first in range(0, batch, together):
        images = slice(first, min(first + together, batch))
        keys = _stacked(_rows(k, images), dtype)
        mask = None if kept is None else ~kept[images, None, None]
        for top in range(0, n, height):
            rows = slice(top, min(top + height, n))
            size = (images.stop - first, rows.stop - top, m)
            maps = keys.new_empty(size) if out is None else _rows(_rows(out, images), rows, axis=1)
            queries = _rows(_rows(q, images), rows, axis=2)
            total = None if sums is None else _rows(_rows(sums, images), rows, axis=2)
            _write_mean(maps, queries, keys, factor, scores, mask, total)
            yield images, rows, maps


def _write_mean(
    out: Tensor, q: Tensor, keys: Tensor, scale: float, memory: Tensor, mask: Tensor | None, sums: Tensor | None
) -> None:
    """Write the head mean of some rows into `out` (b, r, m), so many heads at a time as fit `memory`.

    keys (b·H, m, d); sums (b, H, r)
    """
    batch, heads, rows, _ = q.shape
    m = keys.shape[1]
    step = min(heads, memory.shape[0] // (batch * rows * m))
    if step == heads:
        torch.mean(_shares(q, keys, scale, memory, mask, sums), dim=1, out=out)
        return
    out.zero_()
    keys = keys.unflatten(0, (batch, heads))
    for first in range(0, heads, step):
        some = slice(first, first + step)
        total = None if sums is None else sums[:, some]
        shares = _shares(q[:, some], keys[:, some].flatten(0, 1), scale, memory, mask, total)
        out.add_(shares[:, 0] if step == 1 else shares.sum(dim=1), alpha=1 / heads)


def _shares(
    q: Tensor, keys: Tensor, scale: float, memory: Tensor, mask: Tensor | None, sums: Tensor | None
) -> Tensor:
    """Probabilities (b, H, r, m) of q (b, H, r, d) and keys (b·H, m, d); the scores are written into `memory`."""
    (batch, heads, rows, _), (stacked, m, _) = q.shape, keys.shape
    size = stacked * rows * m
    scores = _rows(memory, slice(0, size)).view(stacked, rows, m)
    torch.baddbmm(scores, _stacked(q, keys.dtype), keys.mT, beta=0, alpha=scale, out=scores)
    scores = scores.view(batch, heads, rows, m)
    if mask is not None:
        scores.masked_fill_(mask, -torch.inf)
    shares = torch.softmax(scores, dim=-1, out=scores if _in_place(scores.device, m) else None)
    return shares if sums is None else shares.mul_(sums[..., None])


def _in_place(device: torch.device, m: int) -> bool:
    """Whether the softmax over m keys takes the place of the scores."""
    return device.type == "cpu" and m % VECTOR == 0


def _rows(tensor: Tensor, rows: slice, axis: int = 0) -> Tensor:
    """Rows of an axis: the tensor itself where they are all, which a view of each would only delay."""
    length = rows.stop - rows.start
    return tensor if length == tensor.shape[axis] else tensor.narrow(axis, rows.start, length)


def _stacked(side: Tensor, dtype: torch.dtype) -> Tensor:
    """(b, H, n, d) → (b·H, n, d) in a dtype: the host's own memory where one image's already has it."""
    if side.shape[0] == 1:  # `len` of a tensor is slow
        return side[0].to(dtype)
    if side.dtype == dtype:
        return side.flatten(0, 1)
    copy = torch.empty_like(side, dtype=dtype, memory_format=torch.contiguous_format).copy_(side)
    return copy.flatten(0, 1)
