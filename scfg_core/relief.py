"""How much memory our own part may take, and what it does when there is none left."""

import math
import threading
from collections.abc import Callable
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor

from .attention import MIB, block_mib_of
from .errors import SettingsError, expect
from .precision import compute_dtype

Way = Literal["auto", "stored", "fused", "matrix_free"]

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
    """Every way of computing ran out of memory; the maps of this evaluation are incomplete."""


class Relief:
    """Sizes that fit a budget; smaller ones after memory has run out. May be asked from several threads at once.

    budget_mib   most that one layer may take beyond q, k, v and its output, MiB.
    way          "auto", or one way forced (for tests and benchmarks).
    """

    def __init__(self, budget_mib: float = DEFAULT_BUDGET_MIB, way: Way = "auto") -> None:
        expect(budget_mib > 0, SettingsError, "a budget above 0 MiB", budget_mib, "the default is 256")
        ways = get_args(Way)
        expect(
            way in ways, SettingsError, f"a way of {', '.join(ways)}", repr(way), "auto chooses by size and budget"
        )
        self.budget_mib = budget_mib
        self.way: Way = way
        self._lock = threading.Lock()
        self._largest_block_mib = math.inf

    def stores(self, q: Tensor, images: int | None = None) -> bool:
        """Whether S of `images` (default b) images of q (b, H, n, d), with blocks of scores, fits the budget."""
        if self.way != "auto":
            return self.way != "matrix_free"
        size = (images or q.shape[0]) * q.shape[2] ** 2 * compute_dtype(q).itemsize
        return size <= (self.budget_mib - 3 * self.block_mib(q)) * MIB

    def block_mib(self, q: Tensor) -> float:
        """MiB of scores that may exist at a time on q's device."""
        return min(block_mib_of(q.device, self.budget_mib), self._largest_block_mib)

    def run(self, compute: Callable[[], Result]) -> Result:
        """compute(), again with less memory each time that it runs out; `CollectorOutOfMemory` at the end."""
        while True:
            try:
                return compute()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if not self._economise():
                    raise CollectorOutOfMemory("S-CFG's own part ran out of memory in every way") from error

    def _economise(self) -> bool:
        """Smaller blocks, then matrix-free; False where nothing is left to try."""
        with self._lock:
            if self._largest_block_mib > SMALLEST_BLOCK_MIB:
                self._largest_block_mib = SMALLEST_BLOCK_MIB
            elif self.way != "matrix_free":
                self.way = "matrix_free"
            else:
                return False
            return True


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host had no memory left; devices other than CUDA only say so in words."""
    words = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(sign in words for sign in NO_MEMORY)
