"""Eq. 8 and Eq. 10 by Triton, as operations of PyTorch: head means of softmax(q kᵀ · scale), products with them.

    C = (1/H) Σ_h softmax(q_h kᵀ · scale)               `text_maps`: a tile holds all keys of a row
    lse_h = log₂ Σ_keys 2^(q_h kᵀ · scale · log₂e)      `row_lse`: a pass over the keys, nothing but a number a row
    S = (1/H) Σ_h 2^(q_h kᵀ · scale · log₂e − lse_h)    `head_mean`: no head's scores leave the chip
    Y ← α S Y + β X                                      `apply_map` with S stored, `stream_map` without S at all

Key columns may be left out (`kept`), or be slices of those that `lse` was taken over: so S and C of a joint softmax
are two calls.

Products with S run on tensor cores in fp16 with sums in fp32. A number from 0 to 1 is kept times a power of 2 as
one fp16, or as two whose sum has 22 bits (`split`): columns always, S·`map_unit(n)` where it is not to be halved.

Every operation is an operator `scfg::…` of PyTorch, for meta tensors too; Triton is imported when one first runs.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LOG2E = math.log2(math.e)

ALIGNMENT = 16
"""Rows of columns are padded to a multiple of it."""

NARROW = 16
"""Columns that narrow images have at most; the least that tensor cores take."""

TILE = 128
"""Patches and keys that are multiples of it fill whole tiles, which need no bounds: none is larger. Small maps,
kept as two fp16, have bounds all the same: fewer kernels to compile."""

TEXT_KEYS = 128
"""Most keys, in half precision, whose softmax is taken in one tile."""

COLUMN_UNIT = float(2**15)
"""What columns, from 0 to 1, are multiplied by before they are split."""

_LIBRARY = torch.library.Library("scfg", "FRAGMENT")


def map_unit(n: int) -> float:
    """What S of n patches is multiplied by before it is rounded: the power of 2 below n, as far as fp16 reaches."""
    return float(min(1 << (n.bit_length() - 1), 2**15))


def padded(width: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return _blocks(width, ALIGNMENT) * ALIGNMENT


def readable(side: Tensor) -> Tensor:
    """q or k as the kernels read it: channels next to each other, whatever the other strides."""
    return side if side.stride(-1) == 1 else side.contiguous()


def _operator(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function as an operator of PyTorch, called through its dispatcher; another copy of this file may have
    made it already.
    """
    name = function.__name__
    try:
        _LIBRARY.define(name + torch.library.infer_schema(function, mutates_args=()))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    except RuntimeError:
        pass
    return getattr(torch.ops.scfg, name).default


@_operator
def text_maps(q: Tensor, k: Tensor, scale: float, kept: Tensor | None, width: int) -> Tensor:
    """C (b, n, width) in fp32, 0 beyond the m keys; q (b, H, n, d), k (b, H, m, d), kept (b, m) bool."""
    batch, heads, n, _ = q.shape
    out = q.new_empty((batch, n, width), dtype=torch.float32)
    columns, rows = _power_of_2(width), max(16, min(64, 4096 // _channels(q)))
    _launch("_text_kernel", (_blocks(n, rows), batch),
        q, k, _mask(kept, q), out, scale * LOG2E, heads, n, k.shape[2], width, *q.stride()[:3], *k.stride()[:3],
        BM=rows, BN=columns, MASKED=kept is not None, **_sizes(q), num_warps=4, num_stages=2,
    )  # fmt: skip
    return out


@_operator
def row_lse(q: Tensor, k: Tensor, scale: float, kept: Tensor | None) -> Tensor:
    """log₂ Σ over kept keys of e^(q kᵀ·scale), (b, H, n) fp32; q (b, H, n, d), k (b, H, m, d), kept (b, m) bool."""
    batch, heads, n, _ = q.shape
    out = q.new_empty((batch, heads, n), dtype=torch.float32)
    rows, columns, options = lse_tile(q)
    _launch("_row_lse_kernel", (_blocks(n, rows), batch * heads),
        q, k, _mask(kept, q), out, scale * LOG2E, heads, n, k.shape[2], *q.stride()[:3], *k.stride()[:3],
        BM=rows, BN=columns, MASKED=kept is not None, **_sizes(q), **options,
    )  # fmt: skip
    return out


@_operator
def head_mean(q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None, width: int) -> Tensor:
    """Head mean of e^(q kᵀ·scale − lse), (b, n, width), 0 beyond the m keys; fp32."""
    batch, _, n, _ = q.shape
    out = q.new_empty((batch, n, width), dtype=torch.float32)
    _head_mean(q, k, lse, scale, kept, out, width, 0, 1.0)
    return out


@_operator
def split_mean(q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None, half: bool) -> Tensor:
    """Head mean of e^(q kᵀ·scale − lse), times `map_unit(n)`, split: (b, 2, n, n) fp16, or (b, 1, n, n) by half."""
    batch, _, n, _ = q.shape
    parts = 1 if half else 2
    out = q.new_empty((batch, parts, n, n), dtype=torch.float16)
    _head_mean(q, k, lse, scale, kept, out, n, parts, map_unit(n))
    return out


@_operator
def split(columns: Tensor) -> Tensor:
    """X (b, n, w) from 0 to 1, fp32, contiguous, times `COLUMN_UNIT`: fp16 and what that leaves, (b, 2, n, w)."""
    batch, n, width = columns.shape
    out = columns.new_empty((batch, 2, n, width), dtype=torch.float16)
    _launch("_split_kernel", (_blocks(n * width, 1024), batch),
        columns, out, COLUMN_UNIT, n * width, BLOCK=1024, num_warps=4,
    )  # fmt: skip
    return out


@_operator
def apply_map(
    maps: Tensor, values: Tensor, base: Tensor, alpha: float, beta: float, last: bool,
    narrow_from: int, narrow_to: int, large: bool,
) -> Tensor:  # fmt: skip
    """α S Y + β X, split as Y is, or in fp32 where it is the `last` one.

    maps of `split_mean`, values Y of `split`, base X (b, n, w) fp32 and contiguous. Of the images from
    `narrow_from` to `narrow_to` only the first `NARROW` columns are computed. large: in tiles for many patches.
    """
    batch, n, width = base.shape
    result = torch.empty_like(base if last else values)
    rows, keys, columns, options = apply_tile(n, width, large)
    _launch("_apply_kernel", (_blocks(width, columns), _blocks(n, rows), batch),
        maps, values, base, *((result, values) if last else (base, result)),
        alpha / (map_unit(n) * COLUMN_UNIT), beta, COLUMN_UNIT, n, width, narrow_from, narrow_to, int(last),
        BM=rows, BN=keys, BW=columns, NARROW=NARROW, PARTS=maps.shape[1],
        WHOLE=maps.shape[1] == 1 and n % TILE == 0, **options,
    )  # fmt: skip
    return result


@_operator
def stream_map(
    q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None,
    values: Tensor, base: Tensor, alpha: float, beta: float, last: bool, narrow_from: int, narrow_to: int,
) -> Tensor:  # fmt: skip
    """As `apply_map`, with every tile of S computed from q and k where it is needed: no S in memory."""
    _, heads, n, _ = q.shape
    batch, _, width = base.shape
    result = torch.empty_like(base if last else values)
    rows, keys, columns, options = stream_tile(q, width)
    unit = map_unit(n)
    _launch("_stream_kernel", (_blocks(width, columns), _blocks(n, rows), batch),
        q, k, lse, _mask(kept, q), values, base, *((result, values) if last else (base, result)),
        scale * LOG2E, unit, alpha / (unit * COLUMN_UNIT), beta, COLUMN_UNIT,
        heads, n, k.shape[2], width, narrow_from, narrow_to, int(last), *q.stride()[:3], *k.stride()[:3],
        BM=rows, BN=keys, BW=columns, NARROW=NARROW, MASKED=kept is not None, **_sizes(q), **options,
    )  # fmt: skip
    return result


def _head_mean(
    q: Tensor, k: Tensor, lse: Tensor, scale: float, kept: Tensor | None, out: Tensor,
    width: int, parts: int, unit: float,
) -> None:  # fmt: skip
    batch, heads, n, _ = q.shape
    rows, columns, options = mean_tile(q)
    _launch("_head_mean_kernel", (_blocks(n, rows), _blocks(width, columns), batch),
        q, k, lse, _mask(kept, q), out, scale * LOG2E, unit, heads, n, k.shape[2], width,
        *q.stride()[:3], *k.stride()[:3],
        BM=rows, BN=columns, PARTS=parts, MASKED=kept is not None,
        WHOLE=parts == 1 and n % TILE == k.shape[2] % TILE == 0, **_sizes(q), **options,
    )  # fmt: skip


def _launch(kernel: str, grid: tuple[int, ...], *given: Any, **sizes: Any) -> None:
    """Launch a kernel on the device of its first tensor; not for meta tensors."""
    device = given[0].device
    if device.type == "meta":
        return
    from . import kernels

    launch = getattr(kernels, kernel)[grid]
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        launch(*given, **sizes)
        return
    with torch.cuda.device(device):  # Triton launches on the current one
        launch(*given, **sizes)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)


def _power_of_2(size: int) -> int:
    """The least power of 2 that is not below size."""
    return 1 << (size - 1).bit_length()


# ---- tiles: what fits a consumer card's registers and shared memory (tests/core/collect/test_compiled.py) ---


def _channels(q: Tensor) -> int:
    """Of a tile of q or k: a power of 2."""
    return max(16, _power_of_2(q.shape[3]))


def _sizes(q: Tensor) -> dict[str, Any]:
    return {"D": q.shape[3], "BD": _channels(q), "EXACT": q.dtype == torch.float32}


def _options(warps: int, stages: int) -> dict[str, int]:
    return {"num_warps": warps, "num_stages": stages}


def lse_tile(q: Tensor) -> tuple[int, int, dict[str, int]]:
    """Rows, keys and options of `row_lse`."""
    size = _channels(q) * q.itemsize
    if q.dtype == torch.float32 or size > 512:
        return 32, 32, _options(8, 2)
    return (64, 128, _options(4, 2)) if size <= 128 else (64, 64, _options(4, 3 if size <= 256 else 2))


def mean_tile(q: Tensor) -> tuple[int, int, dict[str, int]]:
    """Rows, keys and options of `head_mean` and `split_mean`."""
    size = _channels(q) * q.itemsize
    if q.dtype == torch.float32 or size > 512:
        return 32, 32, _options(8, 2)
    return 64, 64, _options(4, 3 if size <= 256 else 2)


def apply_tile(n: int, width: int, large: bool) -> tuple[int, int, int, dict[str, int]]:
    """Rows, keys, columns and options of `apply_map`."""
    rows, columns = (128, 64) if large else (64 if n > 64 else 16, 32)
    return rows, 64, min(columns, max(NARROW, _power_of_2(width))), _options(8 if large else 4, 3)


def stream_tile(q: Tensor, width: int) -> tuple[int, int, int, dict[str, int]]:
    """Rows, keys, columns and options of `stream_map`."""
    rows, keys, options = mean_tile(q)
    return min(rows, 64), min(keys, 64), min(128, max(NARROW, _power_of_2(width))), options | {"num_warps": 8}


def _mask(kept: Tensor | None, q: Tensor) -> Tensor:
    """A pointer in any case: q's where no key is left out, which is not read then."""
    return q if kept is None else kept.view(torch.uint8)
