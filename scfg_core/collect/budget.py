"""How much memory the collector may take, and what it does when there is none left."""

import math
import threading
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from ..errors import SettingsError
from ..method.attention import MIB, block_mib_of
from ..precision import compute_dtype

Backend = Literal["auto", "stored", "matrix_free"]
"""How S is applied: stored (n² numbers), matrix-free (an attention per power), or by size and budget."""

Result = TypeVar("Result")

DEFAULT_BUDGET_MIB = 256.0
SMALLEST_BLOCK_MIB = 0.5

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


class CollectorOutOfMemory(RuntimeError):
    """Every backend ran out of memory; the maps of this evaluation are incomplete."""


class MemoryBudget:
    """Block sizes that fit a budget, and smaller ones after memory has run out. Safe to use from several threads.

    budget_mib   most that one layer may take beyond q, k, v and its output, MiB.
    backend      "auto", or one backend forced (for tests and benchmarks).

    Raises `SettingsError` for a budget that is not positive, or an unknown backend.
    """

    def __init__(self, budget_mib: float = DEFAULT_BUDGET_MIB, backend: Backend = "auto") -> None:
        if not budget_mib > 0:
            raise SettingsError(f"expected a budget above 0 MiB, got {budget_mib}: the default is 256")
        if backend not in get_args(Backend):
            raise SettingsError(
                f"expected a backend of {', '.join(get_args(Backend))}, got {backend!r}: "
                "auto chooses by size and budget"
            )
        self.budget_mib = budget_mib
        self.backend: Backend = backend
        self._lock = threading.Lock()
        self._largest_block_mib = math.inf

    def stores(self, q: Tensor, images: int | None = None) -> bool:
        """Whether S of `images` (default b) images of q (b, H, n, d), with blocks of scores, fits the budget."""
        if self.backend != "auto":
            return self.backend == "stored"
        size = (images or q.shape[0]) * q.shape[2] ** 2 * compute_dtype(q).itemsize
        return size <= (self.budget_mib - 3 * self.block_mib(q)) * MIB

    def block_mib(self, q: Tensor) -> float:
        """MiB of scores that may exist at a time on q's device."""
        return min(block_mib_of(q.device, self.budget_mib), self._largest_block_mib)

    def run(self, compute: Callable[[], Result]) -> Result:
        """compute(), repeated with less memory whenever it runs out; `CollectorOutOfMemory` where nothing helps."""
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self._shrink():
                    raise CollectorOutOfMemory("S-CFG ran out of memory with every backend") from error

    def _shrink(self) -> bool:
        """Smaller blocks, then matrix-free; False where nothing is left to try."""
        with self._lock:
            if self._largest_block_mib > SMALLEST_BLOCK_MIB:
                self._largest_block_mib = SMALLEST_BLOCK_MIB
            elif self.backend != "matrix_free":
                self.backend = "matrix_free"
            else:
                return False
            return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left; devices other than CUDA only say so in words."""
    words = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(sign in words for sign in NO_MEMORY)
