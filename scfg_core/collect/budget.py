"""How much memory our own part may take: rules of the device's kind and total memory, never of free memory.

The same settings give the same way of computing in every run, whatever else occupies the device. Where memory runs
out all the same: smaller blocks, then no S at all, then `CollectorOutOfMemory`.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from ..errors import SettingsError

MIB = 1024 * 1024
GIB = 1024 * MIB

LEAST_BUDGET = 256 * MIB
GREATEST_BUDGET = 2 * GIB
BUDGET_PART = 12
"""A device other than a CPU lends us this part of its total memory."""

CPU_BLOCK = 2 * MIB
"""Scores at a time on a CPU: they stay in the cache of one core."""

SMALLEST_BLOCK = MIB // 2
GREATEST_BLOCK = 384 * MIB
"""Scores and shares at a time on other devices, at most."""

FEW_MAPS = 512 * MIB
"""S of several rows may exist at a time up to this size; beyond, of half of the call's rows: one for an image."""

NO_MEMORY = (
    "out of memory",  # CUDA, ROCm, XPU, MPS
    "allocate memory",  # a CPU under Linux
    "not enough memory",  # a CPU under Windows
    "could not allocate tensor",  # DirectML
    "not enough gpu video memory",
    "alloc_failed",  # cuBLAS, cuDNN
    "invalid buffer size",  # Metal
)
"""What errors say, in small letters, where there was no memory left."""

Result = TypeVar("Result")


class CollectorOutOfMemory(RuntimeError):
    """Every way of computing ran out of memory; the maps of this evaluation are incomplete."""


class MemoryBudget:
    """Sizes that fit; smaller ones after memory has run out. May be asked from several threads at once.

    limit    bytes of S, and of scores where they exist, at a time.
    block    bytes of scores at a time, where they exist.
    """

    def __init__(self, limit: int, block: int) -> None:
        if limit <= 0:
            raise SettingsError(f"expected a budget above 0 bytes, got {limit}: None leaves it to the device")
        self.limit = limit
        self.block = min(block, max(1, limit // 4))
        self._lock = threading.Lock()

    @classmethod
    def for_device(cls, kind: str, total_bytes: int | None, limit: int | None = None) -> "MemoryBudget":
        """The budget of a device of a kind ("cpu", "cuda", …) with `total_bytes` of memory; None = not known.

        A CPU: 256 MiB. Others: a twelfth of their memory, from 256 MiB to 2 GiB. `limit`: bytes set by the user.
        """
        if limit is None:
            part = 0 if kind == "cpu" or total_bytes is None else total_bytes // BUDGET_PART
            limit = min(max(part, LEAST_BUDGET), GREATEST_BUDGET)
        return cls(limit, CPU_BLOCK if kind == "cpu" else GREATEST_BLOCK)

    @classmethod
    def of(cls, tensor: Tensor, limit: int | None = None) -> "MemoryBudget":
        """The budget of the device that a tensor is on."""
        return cls.for_device(tensor.device.type, total_memory(tensor.device), limit)

    def images_at_once(self, images: int, map_bytes: int, scores: int = 0) -> int:
        """Of how many of a call's images S may exist at a time, `map_bytes` each, beside `scores` bytes of scores;
        0 = not even of one.
        """
        room = min(self.limit - scores, max(FEW_MAPS, images * map_bytes // 2))
        return max(0, min(images, room // map_bytes))

    def run(self, compute: Callable[[], Result]) -> Result:
        """compute(), again with less memory each time that it runs out; `CollectorOutOfMemory` at the end."""
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self._shrink():
                    raise CollectorOutOfMemory(
                        "S-CFG ran out of memory in every way of computing its maps"
                    ) from error

    def _shrink(self) -> bool:
        """Smaller blocks, then no S; False where nothing is left to try."""
        with self._lock:
            if self.block > SMALLEST_BLOCK:
                self.block = SMALLEST_BLOCK
            elif self.limit:
                self.limit = 0
            else:
                return False
            return True


def total_memory(device: torch.device) -> int | None:
    """Bytes of memory that a device has in all, free or not; None where it does not say."""
    if device.type in ("cuda", "xpu"):
        return getattr(torch, device.type).get_device_properties(device).total_memory
    if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):
        return torch.mps.recommended_max_memory()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left; devices other than CUDA only say so in words."""
    words = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(sign in words for sign in NO_MEMORY)
