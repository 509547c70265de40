"""A host's evaluation on a GPU, seen by PyTorch's profiler: kernels, how long they are busy, Python's share."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

COLUMNS = {
    "name": "evaluation",
    "wall": "wall, ms",
    "wall_ratio": "of plain CFG",
    "busy": "GPU busy, ms",
    "busy_ratio": "of plain CFG",
    "launches": "launches",
    "launches_added": "added",
    "python": "until the host is free, ms",
    "python_added": "added",
    "peak_ratio": "peak, of plain CFG",
}
EVALUATIONS = 4


def measure(host: Any, side: int, variants: list[str]) -> dict[str, dict[str, Any]]:
    """Parts of rows of every variant; medians over the evaluations after the first."""
    found = {variant: _one(host, variant, side) for variant in variants}
    plain = found["cfg"]
    for parts in found.values():
        for key in ("wall", "busy"):
            parts[f"{key}_ratio"] = parts[key] / plain[key]
        for key in ("launches", "python"):
            parts[f"{key}_added"] = parts[key] - plain[key]
    return found


def _one(host: Any, variant: str, side: int) -> dict[str, Any]:
    host.sample(variant, side, 2)  # what the first run compiles and loads is not an evaluation's
    torch.cuda.synchronize()
    begun = time.perf_counter()
    host.sample(variant, side, EVALUATIONS)
    python = time.perf_counter() - begun
    torch.cuda.synchronize()
    wall = time.perf_counter() - begun
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        host.sample(variant, side, EVALUATIONS)
        torch.cuda.synchronize()
    kernels = [event for event in seen.events() if event.device_type == DeviceType.CUDA]
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    return {
        "wall": 1000 * wall / EVALUATIONS,
        "python": 1000 * python / EVALUATIONS,
        "busy": busy / EVALUATIONS,
        "launches": len(kernels) // EVALUATIONS,
    }
