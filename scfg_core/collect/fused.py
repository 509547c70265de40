"""Eq. 8 and Eq. 10 by Triton, as operations of PyTorch: head means of softmax(q kᵀ · scale), products with them.

    lse_h = log₂ Σ_keys 2^(q_h kᵀ · scale · log₂e)      `row_lse`: a pass over the keys, nothing but a number a row
    S = (1/H) Σ_h 2^(q_h kᵀ · scale · log₂e − lse_h)    `head_mean`: S or C; no head's scores leave the chip
    Y ← α S Y + β X                                      `apply_map` with S stored, `stream_map` without S at all

Key columns may be left out (`kept`), or be slices of those that `lse` was taken over: so S and C of a joint softmax
are two calls. Products with S split both sides in two bf16 parts and sum three products, which keeps 16 bits on
tensor cores; lse and all sums are fp32. S may be kept as fp16 of S·`half_factor(n)`.

Every operation is a custom op `scfg::…` (PyTorch 2.4), with shapes for meta tensors; Triton is imported when one
first runs.
"""

import math
from typing import Any

import torch
from torch import Tensor

LOG2E = math.log2(math.e)

ALIGNMENT = 16
"""Rows of columns are padded to a multiple of it."""

NARROW = 16
"""Columns that narrow images have at most; the least that tensor cores take."""

KEYS = 64
"""Most keys in a tile of `row_lse` and `stream_map`, and rows in one of the latter."""


def half_factor(n: int) -> float:
    """What S of n patches is multiplied by before it is rounded to fp16: n, as far as fp16 reaches."""
    return float(min(n, 32768))


def padded(width: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return _blocks(width, ALIGNMENT) * ALIGNMENT


def readable(side: Tensor) -> Tensor:
    """q or k as the kernels read it: channels next to each other, whatever the other strides."""
    return side if side.stride(-1) == 1 else side.contiguous()


@torch.library.custom_op("scfg::row_lse", mutates_args=())
def row_lse(q: Tensor, k: Tensor, scale: float, kept: Tensor | None) -> Tensor:
    """log₂ Σ over kept keys of e^(q kᵀ·scale), (b, H, n) fp32; q (b, H, n, d), k (b, H, m, d), kept (b, m) bool."""
    batch, heads, n, _ = q.shape
    out = q.new_empty((batch, heads, n), dtype=torch.float32)
    tile, rows, _ = _tiling(q)
    _launch("_row_lse_kernel", (_blocks(n, rows), batch * heads),
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
    _launch("_head_mean_kernel", (_blocks(n, rows), _blocks(width, columns), batch),
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
    _launch("_apply_kernel", (_blocks(n, rows), _blocks(width, block), batch),
        maps, values, base, out, alpha, beta, n, width, narrow_from, narrow_to,
        BM=rows, BN=32, BW=block, NARROW=NARROW, num_warps=8, num_stages=3,
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
    block, rows, columns = _column_block(width), min(rows, KEYS), min(columns, KEYS)
    _launch("_stream_kernel", (_blocks(n, rows), _blocks(width, block), batch),
        q, k, lse, _mask(kept, q), values, base, out, scale * LOG2E, alpha, beta, heads, n, k.shape[2], width,
        narrow_from, narrow_to, *q.stride()[:3], *k.stride()[:3],
        BM=rows, BN=columns, BW=block, NARROW=NARROW, MASKED=kept is not None, **tile | {"num_warps": 8},
    )  # fmt: skip
    return out


@stream_map.register_fake
def _(
    q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None,
    values: Tensor, base: Tensor, alpha: float, beta: float, narrow_from: int, narrow_to: int,
) -> Tensor:  # fmt: skip
    return torch.empty_like(base)


def _launch(kernel: str, grid: tuple[int, ...], *tensors: Any, **sizes: Any) -> None:
    from . import kernels

    getattr(kernels, kernel)[grid](*tensors, **sizes)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _power_of_2(size: int) -> int:
    """The least power of 2 that is not below size."""
    return 1 << (size - 1).bit_length()


def _tiling(q: Tensor) -> tuple[dict[str, int | bool], int, int]:
    """Compile-time sizes, and rows and columns of a tile of scores: what fits a consumer card's registers and
    shared memory (`tests/core/collect/test_compiled.py`).
    """
    width = q.shape[3]
    channels = max(16, _power_of_2(width))
    exact = q.dtype == torch.float32
    if exact or channels * q.itemsize > 512:
        rows, columns, warps = 32, 32, 8
    else:
        rows, columns, warps = (128, 64, 8) if channels * q.itemsize <= 128 else (64, 64, 4)
    return {"D": width, "BD": channels, "EXACT": exact, "num_warps": warps, "num_stages": 2}, rows, columns


def _column_block(width: int) -> int:
    return min(128, max(NARROW, _power_of_2(width)))


def _mask(kept: Tensor | None, q: Tensor) -> Tensor:
    """A pointer in any case: q's where no key is left out, which is not read then."""
    return q if kept is None else kept.view(torch.uint8)
