"""Eq. 8 and Eq. 10 in Triton: the head mean of softmax(q kᵀ · scale) written once, and products with it.

    lse_h = log₂ Σ_keys 2^(q_h kᵀ · scale · log₂e)      `row_lse`: a pass over the keys, nothing but a number a row
    S = (1/H) Σ_h 2^(q_h kᵀ · scale · log₂e − lse_h)    `head_mean`: S or C; no head's scores leave the chip
    Y ← α S Y + β X                                      `apply_map` with S stored, `stream_map` without S at all

Key columns may be left out (`kept`), or be slices of those that `lse` was taken over: so S and C of a joint softmax
are two calls. Products with S split both sides in two bf16 parts and sum three products, which keeps 16 bits on
tensor cores; lse and all sums are fp32. S may be kept as fp16 of S·`half_factor(n)`.

Importing this file needs Triton. Each operation is a custom op `scfg::…` with a shape for meta tensors.
"""

import math
import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = math.log2(math.e)
ALIGNMENT = 16
"""Rows of columns are padded to a multiple of it."""

KEYS = 64
"""Keys in a tile of `row_lse` and `stream_map`."""


OPERAND: tl.constexpr = tl.constexpr(tl.float32 if os.environ.get("TRITON_INTERPRET") == "1" else tl.bfloat16)
"""In what bf16 numbers are multiplied: Triton's interpreter, which has no such product, takes them as fp32."""


def half_factor(n: int) -> float:
    """What S of n patches is multiplied by before it is rounded to fp16: n, as far as fp16 reaches."""
    return float(min(n, 32768))


def padded(width: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def readable(side: Tensor) -> Tensor:
    """q or k as the kernels read it: channels next to each other, whatever the other strides."""
    return side if side.stride(-1) == 1 else side.contiguous()


# ---- what the kernels share --------------------------------------------------------------------------------


@triton.jit
def _tile(base, rows, channels, limit, stride, D: tl.constexpr):
    """Rows of q or k, (len(rows), len(channels)); 0 beyond `limit` rows and D channels."""
    inside = (rows[:, None] < limit) & (channels[None, :] < D)
    return tl.load(base + rows[:, None] * stride + channels[None, :], mask=inside, other=0.0)


@triton.jit
def _kept_keys(kept, b, columns, m, MASKED: tl.constexpr):
    inside = columns < m
    if MASKED:
        inside = inside & (tl.load(kept + b * m + columns, mask=inside, other=0) != 0)
    return inside


@triton.jit
def _scores(q, k, scale, EXACT: tl.constexpr):
    if EXACT:
        return tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    if q.dtype == tl.bfloat16:
        return tl.dot(q.to(OPERAND), tl.trans(k.to(OPERAND))) * scale
    return tl.dot(q, tl.trans(k)) * scale


@triton.jit
def _mean_tile(
    q, k, lse, kept, b, rows, columns, n, m, heads, scale,
    sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """(BM, BN) of (1/H) Σ_h 2^(scores − lse); 0 at keys that are left out."""
    channels = tl.arange(0, BD)
    total = tl.zeros([BM, BN], tl.float32)
    for h in range(heads):
        query = _tile(q + b * sqb + h * sqh, rows, channels, n, sqn, D)
        key = _tile(k + b * skb + h * skh, columns, channels, m, skn, D)
        level = tl.load(lse + (b * heads + h) * n + rows, mask=rows < n, other=0.0)
        total += tl.exp2(_scores(query, key, scale, EXACT) - level[:, None])
    return tl.where(_kept_keys(kept, b, columns, m, MASKED)[None, :], total / heads, 0.0)


@triton.jit
def _accumulate(total, shares, values):
    """total + shares · values to 16 bits: fp32 operands as sums of two bf16 parts, without the smallest product."""
    s = shares.to(tl.bfloat16)
    s_rest = (shares - s.to(tl.float32)).to(tl.bfloat16).to(OPERAND)
    v = values.to(tl.bfloat16)
    v_rest = (values - v.to(tl.float32)).to(tl.bfloat16).to(OPERAND)
    s, v = s.to(OPERAND), v.to(OPERAND)
    return tl.dot(s, v, tl.dot(s, v_rest, tl.dot(s_rest, v, total)))


@triton.jit
def _finish(total, base, out, b, rows, columns, n, width, alpha, beta):
    inside = (rows[:, None] < n) & (columns[None, :] < width)
    at = (b.to(tl.int64) * n + rows[:, None]) * width + columns[None, :]
    tl.store(out + at, alpha * total + beta * tl.load(base + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def _columns(values, b, keys, columns, n, width):
    inside = (keys[:, None] < n) & (columns[None, :] < width)
    return tl.load(values + (b.to(tl.int64) * n + keys[:, None]) * width + columns[None, :], mask=inside, other=0.0)


# ---- kernels -----------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["heads", "n", "m", "scale"])
def _row_lse_kernel(
    q, k, kept, out, scale, heads, n, m,
    sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    channels = tl.arange(0, BD)
    query = _tile(q + b * sqb + h * sqh, rows, channels, n, sqn, D)
    highest = tl.full([BM], -1e30, tl.float32)
    total = tl.zeros([BM], tl.float32)
    for first in range(0, m, BN):
        columns = first + tl.arange(0, BN)
        key = _tile(k + b * skb + h * skh, columns, channels, m, skn, D)
        scores = _scores(query, key, scale, EXACT)
        scores = tl.where(_kept_keys(kept, b, columns, m, MASKED)[None, :], scores, -1e30)
        higher = tl.maximum(highest, tl.max(scores, 1))
        total = total * tl.exp2(highest - higher) + tl.sum(tl.exp2(scores - higher[:, None]), 1)
        highest = higher
    tl.store(out + tl.program_id(1) * n + rows, highest + tl.log2(total), mask=rows < n)


@triton.jit(do_not_specialize=["heads", "n", "m", "scale", "factor"])
def _head_mean_kernel(
    q, k, lse, kept, out, scale, factor, heads, n, m, width,
    sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    b = tl.program_id(2)
    mean = _mean_tile(
        q, k, lse, kept, b, rows, columns, n, m, heads, scale,
        sqb, sqh, sqn, skb, skh, skn, D, BD, BM, BN, MASKED, EXACT,
    )  # fmt: skip
    at = (b.to(tl.int64) * n + rows[:, None]) * width + columns[None, :]
    inside = (rows[:, None] < n) & (columns[None, :] < width)
    tl.store(out + at, (mean * factor).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _apply_tile(
    maps, values, base, out, b, rows, first, n, width, alpha, beta,
    BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    columns = first + tl.arange(0, BW)
    total = tl.zeros([BM, BW], tl.float32)
    for start in range(0, n, BN):
        keys = start + tl.arange(0, BN)
        inside = (rows[:, None] < n) & (keys[None, :] < n)
        at = (b.to(tl.int64) * n + rows[:, None]) * n + keys[None, :]
        shares = tl.load(maps + at, mask=inside, other=0.0).to(tl.float32)
        total = _accumulate(total, shares, _columns(values, b, keys, columns, n, width))
    _finish(total, base, out, b, rows, columns, n, width, alpha, beta)


@triton.jit(do_not_specialize=["narrow_from", "narrow_to", "alpha", "beta"])
def _apply_kernel(
    maps, values, base, out, alpha, beta, n, width, narrow_from, narrow_to,
    BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, NARROW: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    block, b = tl.program_id(1), tl.program_id(2)
    if (b >= narrow_from) & (b < narrow_to):
        if block == 0:
            _apply_tile(maps, values, base, out, b, rows, 0, n, width, alpha, beta, BM, BN, NARROW)
    else:
        _apply_tile(maps, values, base, out, b, rows, block * BW, n, width, alpha, beta, BM, BN, BW)


@triton.jit
def _stream_tile(
    q, k, lse, kept, values, base, out, alpha, beta, b, rows, first, heads, n, m, scale, width,
    sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    columns = first + tl.arange(0, BW)
    total = tl.zeros([BM, BW], tl.float32)
    for start in range(0, m, BN):
        keys = start + tl.arange(0, BN)
        shares = _mean_tile(
            q, k, lse, kept, b, rows, keys, n, m, heads, scale,
            sqb, sqh, sqn, skb, skh, skn, D, BD, BM, BN, MASKED, EXACT,
        )  # fmt: skip
        total = _accumulate(total, shares, _columns(values, b, keys, columns, m, width))
    _finish(total, base, out, b, rows, columns, n, width, alpha, beta)


@triton.jit(do_not_specialize=["heads", "n", "m", "narrow_from", "narrow_to", "scale", "alpha", "beta"])
def _stream_kernel(
    q, k, lse, kept, values, base, out, scale, alpha, beta, heads, n, m, width, narrow_from, narrow_to,
    sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, NARROW: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    block, b = tl.program_id(1), tl.program_id(2)
    if (b >= narrow_from) & (b < narrow_to):
        if block == 0:
            _stream_tile(
                q, k, lse, kept, values, base, out, alpha, beta, b, rows, 0, heads, n, m, scale, width,
                sqb, sqh, sqn, skb, skh, skn, D, BD, BM, BN, NARROW, MASKED, EXACT,
            )  # fmt: skip
    else:
        _stream_tile(
            q, k, lse, kept, values, base, out, alpha, beta, b, rows, block * BW, heads, n, m, scale, width,
            sqb, sqh, sqn, skb, skh, skn, D, BD, BM, BN, BW, MASKED, EXACT,
        )  # fmt: skip


# ---- operations --------------------------------------------------------------------------------------------


@torch.library.custom_op("scfg::row_lse", mutates_args=())
def row_lse(q: Tensor, k: Tensor, scale: float, kept: Tensor | None) -> Tensor:
    """log₂ Σ over kept keys of e^(q kᵀ·scale), (b, H, n) fp32; q (b, H, n, d), k (b, H, m, d), kept (b, m) bool."""
    batch, heads, n, _ = q.shape
    out = q.new_empty((batch, heads, n), dtype=torch.float32)
    tile, rows, _ = _tiling(q)
    _launch(_row_lse_kernel, (triton.cdiv(n, rows), batch * heads),
        q, k, _mask(kept, q), out, scale * LOG2E, heads, n, k.shape[2], *q.stride()[:3], *k.stride()[:3],
        BM=rows, BN=KEYS if rows >= KEYS else rows, MASKED=kept is not None, **tile,
    )  # fmt: skip
    return out


@row_lse.register_fake
def _(q: Tensor, k: Tensor, scale: float, kept: Tensor | None) -> Tensor:
    return q.new_empty(q.shape[:3], dtype=torch.float32)


@torch.library.custom_op("scfg::head_mean", mutates_args=())
def head_mean(
    q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None, half: bool, width: int
) -> Tensor:
    """Head mean of e^(q kᵀ·scale − lse), (b, n, width), 0 beyond the m keys; fp32.

    `half`: fp16 of it · `half_factor(n)`.
    """
    batch, heads, n, _ = q.shape
    out = q.new_empty((batch, n, width), dtype=torch.float16 if half else torch.float32)
    tile, rows, columns = _tiling(q)
    _launch(_head_mean_kernel, (triton.cdiv(n, rows), triton.cdiv(width, columns), batch),
        q, k, lse, _mask(kept, q), out, scale * LOG2E, half_factor(n) if half else 1.0, heads, n, k.shape[2], width,
        *q.stride()[:3], *k.stride()[:3], BM=rows, BN=columns, MASKED=kept is not None, **tile,
    )  # fmt: skip
    return out


@head_mean.register_fake
def _(q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None, half: bool, width: int) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[2], width), dtype=torch.float16 if half else torch.float32)


@torch.library.custom_op("scfg::apply_map", mutates_args=())
def apply_map(
    maps: Tensor, values: Tensor, base: Tensor, alpha: float, beta: float, narrow_from: int, narrow_to: int
) -> Tensor:
    """α S Y + β X in fp32: S (b, n, n) fp32 or fp16, Y and X (b, n, w), contiguous.

    Of the images from `narrow_from` to `narrow_to` only the first `NARROW` columns are computed.
    """
    batch, n, width = values.shape
    out = torch.empty_like(values)
    rows, block = 64 if n > 256 else 16, _column_block(width)
    _launch(_apply_kernel, (triton.cdiv(n, rows), triton.cdiv(width, block), batch),
        maps, values, base, out, alpha, beta, n, width, narrow_from, narrow_to,
        BM=rows, BN=32, BW=block, NARROW=NARROW, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


@apply_map.register_fake
def _(
    maps: Tensor, values: Tensor, base: Tensor, alpha: float, beta: float, narrow_from: int, narrow_to: int
) -> Tensor:
    return torch.empty_like(values)


@torch.library.custom_op("scfg::stream_map", mutates_args=())
def stream_map(
    q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None,
    values: Tensor, base: Tensor, alpha: float, beta: float, narrow_from: int, narrow_to: int,
) -> Tensor:  # fmt: skip
    """As `apply_map`, with every tile of S computed from q and k where it is needed: no S in memory."""
    batch, heads, n, _ = q.shape
    width = values.shape[2]
    out = torch.empty_like(base)
    tile, rows, columns = _tiling(q)
    block = _column_block(width)
    columns = min(columns, KEYS)
    _launch(_stream_kernel, (triton.cdiv(n, rows), triton.cdiv(width, block), batch),
        q, k, lse, _mask(kept, q), values, base, out, scale * LOG2E, alpha, beta, heads, n, k.shape[2], width,
        narrow_from, narrow_to, *q.stride()[:3], *k.stride()[:3],
        BM=rows, BN=columns, BW=block, NARROW=NARROW, MASKED=kept is not None, **tile,
    )  # fmt: skip
    return out


@stream_map.register_fake
def _(
    q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None,
    values: Tensor, base: Tensor, alpha: float, beta: float, narrow_from: int, narrow_to: int,
) -> Tensor:  # fmt: skip
    return torch.empty_like(base)


NARROW = 16
"""Columns that narrow images have at most; the least that tensor cores take."""


def _launch(kernel: Any, grid: tuple[int, ...], *tensors: Any, **sizes: Any) -> None:
    kernel[grid](*tensors, **sizes)


def _tiling(q: Tensor) -> tuple[dict[str, int | bool], int, int]:
    """Compile-time sizes, and rows and columns of a tile of scores, that fit the cores of a consumer card."""
    width = q.shape[3]
    channels = max(16, triton.next_power_of_2(width))
    exact = q.dtype == torch.float32
    rows, columns, warps = {True: (128, 128, 8), False: (64, 64, 4)}[channels * q.itemsize <= 128]
    if channels * q.itemsize > 512:
        rows, columns = 32, 32
    return {"D": width, "BD": channels, "EXACT": exact, "num_warps": warps, "num_stages": 2}, rows, columns


def _column_block(width: int) -> int:
    return min(128, max(NARROW, triton.next_power_of_2(width)))


def _mask(kept: Tensor | None, q: Tensor) -> Tensor:
    """A pointer in any case: q's where no key is left out, which is not read then."""
    return q if kept is None else kept.view(torch.uint8)
