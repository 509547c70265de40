"""The Triton kernels behind `fused`: importing this file needs Triton.

q and k are read as they are, by strides; n, m and H are no constants of the compiler, so a kernel is compiled once
for a dtype and a width of heads.
"""

import os

import triton
import triton.language as tl

OPERAND: tl.constexpr = tl.constexpr(tl.float32 if os.environ.get("TRITON_INTERPRET") == "1" else tl.bfloat16)
"""In what bf16 numbers are multiplied: Triton's interpreter, which has no such product, takes them as fp32."""


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
