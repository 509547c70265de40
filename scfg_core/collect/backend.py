"""Who computes: the Triton kernels where they work, else PyTorch's own operations; both give the same labels.

Triton is asked for on NVIDIA cards of compute capability 8.0 and later, for layers that are not small. It is used
for a kind of q and k once the kernels have given, on that device, what PyTorch gives on small tensors; whatever
goes wrong with it, PyTorch takes over for good. Most Windows users have no Triton.
"""

import functools
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Literal, Protocol

import torch
from torch import Tensor

from ..method.attention import head_mean_attention
from ..precision import compute_dtype
from .budget import MIB, MemoryBudget
from .operators import FlashAttention, Operator, RowBlocks, SelfHeads, StoredMap, aligned

if TYPE_CHECKING:
    from .tiles import Keeping

BackendName = Literal["triton", "pytorch"]

FLASH_FROM = 2048
"""From so many patches on, CUDA's own attention is faster than PyTorch's products with a stored S."""

FEW_SCORES = 2 * MIB
"""Scores of a call, in numbers, up to which PyTorch's operations take less of a processor's time than Triton's
launches, and leave nothing to compile; a card is done with either in no time."""

TOLERANCE = 1e-3
"""Largest difference between Triton and PyTorch in the proof, relative to the largest value."""


class Backend(Protocol):
    """How C of a layer is made, and what acts as its S."""

    name: BackendName

    def padded(self, width: int) -> int:
        """The width of columns in memory."""
        ...

    def cross_maps(
        self, q: Tensor, k: Tensor, scale: float, kept: Tensor | None, width: int, budget: MemoryBudget
    ) -> Tensor:
        """C (b, n, width) in fp32 (fp64 for fp64 input), zeros beyond the m text keys."""
        ...

    def operators(
        self, heads: SelfHeads, widths: Sequence[int], room: int, budget: MemoryBudget
    ) -> Iterator[tuple[slice, int, Operator]]:
        """What acts as S, some images at a time: the images, how many of their columns, and S.

        widths  how many of the `room` columns image i needs at least.
        """
        ...


class PyTorch:
    """The batched way: on any device."""

    name: BackendName = "pytorch"

    def padded(self, width: int) -> int:
        return aligned(width)

    def cross_maps(
        self, q: Tensor, k: Tensor, scale: float, kept: Tensor | None, width: int, budget: MemoryBudget
    ) -> Tensor:
        return head_mean_attention(q, k, scale=scale, block=budget.block, kept=kept, width=width)

    def operators(
        self, heads: SelfHeads, widths: Sequence[int], room: int, budget: MemoryBudget
    ) -> Iterator[tuple[slice, int, Operator]]:
        n, m = heads.q.shape[2], heads.k.shape[2]
        size = n * m * compute_dtype(heads.q).itemsize
        together = budget.images_at_once(len(widths), size, scores=budget.block)
        flash = self._flash(heads, budget)
        step = len(widths) if flash or not together else together
        cheap = n <= FLASH_FROM and heads.q.device.type != "cpu"  # to multiply: one call for all of them is cheaper
        for first in range(0, len(widths), step):
            stored = StoredMap.made_of(heads[first : first + step], budget) if together and not flash else None
            some = widths[first : first + step]
            for run in [slice(0, len(some))] if cheap else _runs(some):
                images = slice(first + run.start, first + run.stop)
                width = min(room, self.padded(max(widths[images])))
                if flash:
                    yield images, width, FlashAttention(heads[images], width, budget)
                else:
                    yield images, width, RowBlocks(heads[images], budget) if stored is None else stored[run]
            del stored  # before the next one is made

    def _flash(self, heads: SelfHeads, budget: MemoryBudget) -> bool:
        """Whether the device's own attention is fast, and can act as S."""
        able = heads.q.device.type in ("cuda", "meta") and torch.version.hip is None and budget.limit > 0
        fits = (heads.normalise or not heads.joint) and heads.q.dtype != torch.float64
        return able and fits and heads.q.shape[2] > FLASH_FROM


class Triton:
    """The operations of `fused`."""

    name: BackendName = "triton"

    def padded(self, width: int) -> int:
        from . import fused

        return fused.padded(width)

    def cross_maps(
        self, q: Tensor, k: Tensor, scale: float, kept: Tensor | None, width: int, budget: MemoryBudget
    ) -> Tensor:
        from . import tiles

        return tiles.cross_maps(q, k, scale, kept, width)

    def operators(
        self, heads: SelfHeads, widths: Sequence[int], room: int, budget: MemoryBudget
    ) -> Iterator[tuple[slice, int, Operator]]:
        from . import fused, tiles

        n = heads.q.shape[2]
        runs = _runs([width <= fused.NARROW for width in widths])
        narrow = [run for run in runs if widths[run.start] <= fused.NARROW]
        chosen = tiles.Narrow(narrow[0].start, narrow[0].stop) if len(narrow) == 1 else tiles.Narrow()
        together = budget.images_at_once(len(widths), tiles.map_bytes(n))
        keeping = tiles.keeping_of(n) if together else "none"
        for images, operator in tiles.operators(heads, together, chosen, keeping):
            yield images, room, operator
            del operator  # its S, before the next one is made


BACKENDS: dict[BackendName, type[PyTorch] | type[Triton]] = {"pytorch": PyTorch, "triton": Triton}


def _runs(values: Sequence[int]) -> Iterator[slice]:
    """Places of equal neighbours."""
    start = 0
    for _, run in groupby(values):
        stop = start + len(list(run))
        yield slice(start, stop)
        start = stop


def backend_for(q: Tensor, budget: MemoryBudget) -> Backend:
    """The backend for the q (b, H, n, d) of a layer: PyTorch where there is little to compute.

    Else decided once for a device, a dtype, a width of heads, a way of keeping S, and whether tiles have no bounds;
    the first time it waits for the device.
    """
    images, heads, n = q.shape[:3]
    if _distrusted or images * heads * n * n <= FEW_SCORES or not _has_triton(q.device):
        return PyTorch()
    from . import fused

    keeping = _keeping(images, n, budget)
    whole = keeping in ("half", "large") and n % fused.TILE == 0
    proved = _proved(q.device, q.dtype, q.shape[3], keeping, whole)
    return Triton() if proved else PyTorch()


def distrust(error: Exception) -> None:
    """Triton failed where it had been proved: PyTorch computes from here on."""
    global _distrusted
    _distrusted = True
    logging.warning("S-CFG goes on without its Triton kernels: %r", error)


_distrusted = False


def _keeping(images: int, n: int, budget: MemoryBudget) -> "Keeping":
    from . import tiles

    return tiles.keeping_of(n) if budget.images_at_once(images, tiles.map_bytes(n)) else "none"


@functools.cache
def _has_triton(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.hip is not None or not hasattr(torch.library, "infer_schema"):
        return False
    if importlib.util.find_spec("triton") is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        importlib.import_module(".fused", __package__)
    except Exception as error:  # a PyTorch that registers operators in another way
        logging.info("S-CFG computes without Triton: %r", error)
        return False
    return True


@functools.cache
def _proved(device: torch.device, dtype: torch.dtype, width: int, keeping: "Keeping", whole: bool) -> bool:
    try:
        return agrees(device, dtype, width, keeping, whole)
    except Exception as error:  # a compiler, a driver or a card that Triton does not know
        logging.info("S-CFG computes without Triton: %r", error)
        return False


def agrees(device: torch.device, dtype: torch.dtype, width: int, keeping: "Keeping", whole: bool) -> bool:
    """Whether the kernels give what PyTorch gives, on small tensors; the global generators stay as they are.

    whole  with patches that fill whole tiles.
    """
    from . import fused, tiles

    generator = torch.Generator().manual_seed(0)
    sides = torch.randn((2, 2, fused.TILE if whole else 48, 2 * width), generator=generator).to(device, dtype)
    q, k = sides.unflatten(-1, (2, width)).transpose(2, 3)
    scale, budget, weights = width**-0.5, MemoryBudget(MIB, MIB), (0.0, 0.5, 0.5)
    heads = SelfHeads(q, k, scale)
    columns = tiles.cross_maps(q, k[:, :, :21], scale, None, 32)
    expected = head_mean_attention(q, k[:, :, :21], scale=scale, width=32)
    ((images, operator),) = tiles.operators(heads, 2, tiles.Narrow(), keeping)
    found = [columns, operator.propagate(expected[images], weights)]
    wanted = [expected, StoredMap.made_of(heads, budget).propagate(expected, weights)]
    return all(bool((a - b).abs().max() <= TOLERANCE * b.max()) for a, b in zip(found, wanted, strict=True))
