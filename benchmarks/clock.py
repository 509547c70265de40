"""Time as it should be compared: processor time of one thread on a CPU, events on CUDA; pairs, and their ratios."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Ratio:
    """Median of paired time ratios, with the 95 % interval of the median by resampling pairs."""

    median: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, times: Sequence[float], plain: Sequence[float]) -> Ratio:
        ratios = np.array(times) / np.array(plain)
        if len(ratios) == 1:
            return cls(float(ratios[0]), float("nan"), float("nan"), 1)
        picks = np.random.default_rng(0).integers(len(ratios), size=(2000, len(ratios)))
        low, high = np.quantile(np.median(ratios[picks], axis=1), (0.025, 0.975))
        return cls(float(np.median(ratios)), float(low), float(high), len(ratios))

    def parts(self) -> dict[str, Any]:
        """Of a row."""
        interval = [self.low, self.high]
        return {"time": str(self), "time_ratio": self.median, "time_interval": interval, "pairs": self.pairs}

    def __str__(self) -> str:
        interval = "" if self.pairs == 1 else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.median:.3f}{interval}"


def seconds(call: Callable[[], Any], device: str) -> float:
    """Processor seconds of a call on a CPU (other processes do not count), the device's own on CUDA."""
    if device == "cpu":
        begun = time.process_time()
        call()
        return time.process_time() - begun
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begun.record()
    call()
    ended.record()
    torch.cuda.synchronize()
    return begun.elapsed_time(ended) / 1000


def machine(device: str) -> dict[str, Any]:
    """The facts without which no figure means anything."""
    facts = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
    }
    if device != "cpu":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
        facts["flash_attention"] = torch.backends.cuda.flash_sdp_enabled()
    return facts


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
