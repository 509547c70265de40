"""The Triton kernels behind `fused`: importing this file needs Triton.

q and k are read as they are, by strides; n, m and H are no constants of the compiler, so a kernel is compiled once
for a dtype and a width of heads.
"""

# pyright: reportGeneralTypeIssues=false
# A kernel's functions are no Python functions: to a type checker their calls never return.

import os

import triton
import triton.language as tl

INTERPRETED: tl.constexpr = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Triton's interpreter has no product of bf16: it takes them as fp32."""

LOWEST: tl.constexpr = tl.constexpr(-1e30)


@triton.jit
def _tile(base, rows, channels, limit, stride, D: tl.constexpr, BD: tl.constexpr, WHOLE: tl.constexpr):
    """Rows of q or k, (len(rows), BD); 0 beyond D channels and, unless no row is (WHOLE), beyond `limit` rows."""
    at = base + rows[:, None] * stride + channels[None, :]
    if WHOLE and D == BD:
        return tl.load(at)
    if WHOLE:
        return tl.load(at, mask=channels[None, :] < D, other=0.0)
    return tl.load(at, mask=(rows[:, None] < limit) & (channels[None, :] < D), other=0.0)


@triton.jit
def _kept_keys(kept, b, columns, m, MASKED: tl.constexpr):
    inside = columns < m
    if MASKED:
        inside = inside & (tl.load(kept + b * m + columns, mask=inside, other=0) != 0)
    return inside


@triton.jit
def _products(q, k, EXACT: tl.constexpr):
    """q kᵀ in fp32."""
    if EXACT:
        return tl.dot(q, tl.trans(k), input_precision="ieee")
    if INTERPRETED:
        return tl.dot(q.to(tl.float32), tl.trans(k.to(tl.float32)))
    return tl.dot(q, tl.trans(k))


@triton.jit
def _mean_tile(
    q, k, lse, kept, b, rows, columns, n, m, heads, scale,
    sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """(BM, BN) of (1/H) Σ_h 2^(scores − lse); 0 at keys that are left out."""
    channels = tl.arange(0, BD)
    total = tl.zeros([BM, BN], tl.float32)
    for h in range(heads):
        query = _tile(q + b * sqb + h * sqh, rows, channels, n, sqn, D, BD, WHOLE)
        key = _tile(k + b * skb + h * skh, columns, channels, m, skn, D, BD, WHOLE)
        level = tl.load(lse + (b * heads + h) * n + rows, mask=rows < n, other=-LOWEST)
        total += tl.exp2(_products(query, key, EXACT) * scale - level[:, None])
    if WHOLE and not MASKED:
        return total / heads
    return tl.where(_kept_keys(kept, b, columns, m, MASKED)[None, :], total / heads, 0.0)


@triton.jit
def _halves(values):
    """values as fp16, and what that leaves."""
    high = values.to(tl.float16)
    return high, (values - high.to(tl.float32)).to(tl.float16)


@triton.jit
def _two_columns(values, b, keys, columns, n, width):
    """Both halves of Y's columns."""
    inside = (keys[:, None] < n) & (columns[None, :] < width)
    at = values + (2 * b.to(tl.int64) * n + keys[:, None]) * width + columns[None, :]
    return tl.load(at, mask=inside, other=0.0), tl.load(at + n.to(tl.int64) * width, mask=inside, other=0.0)


@triton.jit
def _finish(total, base, out, parts, b, rows, columns, n, width, alpha, beta, unit, last):
    """Write the result, in fp32 where it is the last one, else split."""
    inside = (rows[:, None] < n) & (columns[None, :] < width)
    size = n.to(tl.int64) * width
    at = rows[:, None].to(tl.int64) * width + columns[None, :]
    result = alpha * total + beta * tl.load(base + b * size + at, mask=inside, other=0.0)
    if last:
        tl.store(out + b * size + at, result, mask=inside)
    else:
        high, low = _halves(result * unit)
        at += 2 * b * size
        tl.store(parts + at, high, mask=inside)
        tl.store(parts + at + size, low, mask=inside)


# ---- kernels -----------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["heads", "n", "m", "scale"])
def _text_kernel(
    q, k, kept, out, scale, heads, n, m, width,
    sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    b = tl.program_id(1)
    columns, channels = tl.arange(0, BN), tl.arange(0, BD)
    inside = _kept_keys(kept, b, columns, m, MASKED)[None, :]
    total = tl.zeros([BM, BN], tl.float32)
    for h in range(heads):
        query = _tile(q + b * sqb + h * sqh, rows, channels, n, sqn, D, BD, False)
        key = _tile(k + b * skb + h * skh, columns, channels, m, skn, D, BD, False)
        scores = tl.where(inside, _products(query, key, EXACT) * scale, LOWEST)
        shares = tl.exp2(scores - tl.max(scores, 1)[:, None])
        total += shares / tl.sum(shares, 1)[:, None]
    at = (b.to(tl.int64) * n + rows[:, None]) * width + columns[None, :]
    result = tl.where(inside, total / heads, 0.0)
    tl.store(out + at, result, mask=(rows[:, None] < n) & (columns[None, :] < width))


@triton.jit
def _add_exponentials(scores, scale, highest, total):
    """The running maximum of the products, and Σ 2^((products − maximum)·scale)."""
    higher = tl.maximum(highest, tl.max(scores, 1))
    sums = tl.sum(tl.exp2(scores * scale - (higher * scale)[:, None]), 1)
    return higher, total * tl.exp2((highest - higher) * scale) + sums


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
    query = _tile(q + b * sqb + h * sqh, rows, channels, n, sqn, D, BD, False)
    k += b * skb + h * skh
    highest = tl.full([BM], LOWEST, tl.float32)
    total = tl.zeros([BM], tl.float32)
    whole = 0 if MASKED else m // BN * BN
    for first in range(0, whole, BN):
        key = _tile(k, first + tl.arange(0, BN), channels, m, skn, D, BD, True)
        highest, total = _add_exponentials(_products(query, key, EXACT), scale, highest, total)
    for first in range(whole, m, BN):
        columns = first + tl.arange(0, BN)
        key = _tile(k, columns, channels, m, skn, D, BD, False)
        inside = _kept_keys(kept, b, columns, m, MASKED)[None, :]
        scores = tl.where(inside, _products(query, key, EXACT), LOWEST)
        highest, total = _add_exponentials(scores, scale, highest, total)
    tl.store(out + tl.program_id(1) * n + rows, highest * scale + tl.log2(total), mask=rows < n)


@triton.jit(do_not_specialize=["heads", "n", "m", "scale", "unit"])
def _head_mean_kernel(
    q, k, lse, kept, out, scale, unit, heads, n, m, width,
    sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PARTS: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """PARTS: 0 = fp32, else how many fp16."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    b = tl.program_id(2)
    mean = _mean_tile(
        q, k, lse, kept, b, rows, columns, n, m, heads, scale,
        sqb, sqh, sqn, skb, skh, skn, D, BD, BM, BN, MASKED, EXACT, WHOLE,
    )  # fmt: skip
    inside = (rows[:, None] < n) & (columns[None, :] < width)
    size = n.to(tl.int64) * width
    at = out + max(PARTS, 1) * b * size + rows[:, None].to(tl.int64) * width + columns[None, :]
    if PARTS == 0:
        tl.store(at, mean, mask=inside)
    else:
        high, low = _halves(mean * unit)
        tl.store(at, high, mask=inside)
        if PARTS == 2:
            tl.store(at + size, low, mask=inside)


@triton.jit
def _split_kernel(columns, out, unit, size, BLOCK: tl.constexpr):
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    high, low = _halves(tl.load(columns + b * size + at, mask=at < size, other=0.0) * unit)
    tl.store(out + 2 * b * size + at, high, mask=at < size)
    tl.store(out + (2 * b + 1) * size + at, low, mask=at < size)


@triton.jit
def _apply_tile(
    maps, values, base, out, parts, b, rows, first, n, width, alpha, beta, unit, last,
    BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, PARTS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    columns = first + tl.arange(0, BW)
    size = n.to(tl.int64) * n
    maps += PARTS * b * size
    total = tl.zeros([BM, BW], tl.float32)
    for start in range(0, n, BN):
        keys = start + tl.arange(0, BN)
        inside = (rows[:, None] < n) & (keys[None, :] < n)
        at = maps + rows[:, None].to(tl.int64) * n + keys[None, :]
        high, low = _two_columns(values, b, keys, columns, n, width)
        shares = tl.load(at) if WHOLE else tl.load(at, mask=inside, other=0.0)
        total = tl.dot(shares, high, tl.dot(shares, low, total))
        if PARTS == 2:
            rest = tl.load(at + size) if WHOLE else tl.load(at + size, mask=inside, other=0.0)
            total = tl.dot(rest, high, total)
    _finish(total, base, out, parts, b, rows, columns, n, width, alpha, beta, unit, last)


@triton.jit(do_not_specialize=["narrow_from", "narrow_to", "alpha", "beta", "unit", "last"])
def _apply_kernel(
    maps, values, base, out, parts, alpha, beta, unit, n, width, narrow_from, narrow_to, last,
    BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, NARROW: tl.constexpr, PARTS: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    block, b = tl.program_id(0), tl.program_id(2)
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    if (b >= narrow_from) & (b < narrow_to):
        if block == 0:
            _apply_tile(
                maps, values, base, out, parts, b, rows, 0, n, width, alpha, beta, unit, last,
                BM, BN, NARROW, PARTS, WHOLE,
            )  # fmt: skip
    else:
        _apply_tile(
            maps, values, base, out, parts, b, rows, block * BW, n, width, alpha, beta, unit, last,
            BM, BN, BW, PARTS, WHOLE,
        )  # fmt: skip


@triton.jit
def _stream_tile(
    q, k, lse, kept, values, base, out, parts, unit, alpha, beta, column_unit, b, rows, first, heads, n, m, scale,
    width, last, sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    columns = first + tl.arange(0, BW)
    total = tl.zeros([BM, BW], tl.float32)
    for start in range(0, m, BN):
        keys = start + tl.arange(0, BN)
        shares = _mean_tile(
            q, k, lse, kept, b, rows, keys, n, m, heads, scale,
            sqb, sqh, sqn, skb, skh, skn, D, BD, BM, BN, MASKED, EXACT, False,
        )  # fmt: skip
        share, rest = _halves(shares * unit)
        high, low = _two_columns(values, b, keys, columns, m, width)
        total = tl.dot(share, high, tl.dot(share, low, tl.dot(rest, high, total)))
    _finish(total, base, out, parts, b, rows, columns, n, width, alpha, beta, column_unit, last)


@triton.jit(
    do_not_specialize=[
        "heads", "n", "m", "narrow_from", "narrow_to", "scale", "unit", "alpha", "beta", "column_unit", "last",
    ]
)  # fmt: skip
def _stream_kernel(
    q, k, lse, kept, values, base, out, parts, scale, unit, alpha, beta, column_unit, heads, n, m, width,
    narrow_from, narrow_to, last, sqb, sqh, sqn, skb, skh, skn,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BW: tl.constexpr, NARROW: tl.constexpr,
    MASKED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    block, b = tl.program_id(0), tl.program_id(2)
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    if (b >= narrow_from) & (b < narrow_to):
        if block == 0:
            _stream_tile(
                q, k, lse, kept, values, base, out, parts, unit, alpha, beta, column_unit, b, rows, 0, heads, n, m,
                scale, width, last, sqb, sqh, sqn, skb, skh, skn, D, BD, BM, BN, NARROW, MASKED, EXACT,
            )  # fmt: skip
    else:
        _stream_tile(
            q, k, lse, kept, values, base, out, parts, unit, alpha, beta, column_unit, b, rows, block * BW, heads,
            n, m, scale, width, last, sqb, sqh, sqn, skb, skh, skn, D, BD, BM, BN, BW, MASKED, EXACT,
        )  # fmt: skip
