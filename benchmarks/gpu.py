"""A host's evaluations on a GPU: plain CFG, watched, and S-CFG by both backends, for one image and for several.

    wall      from one evaluation to the next, the device waited for at both ends, median of rounds in turns; a
              sampling's last 18 of 20 evaluations (4 of 6 where they are large) and its end
    busy      sum of the kernels' own times, and how many there are (PyTorch's profiler)
    python    until the host may go on, as wall but without waiting at the end
    start-up  the first sampling of a variant in this process, compiling included
    peak      bytes above what was allocated before

All of a case come from one process, so ratios compare like with like; a processor that launches slowly shows in the
wall, not in the busy time.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from tqdm import tqdm

from scfg_core.collect import backend

from . import clock, report

COLUMNS = {
    "name": "evaluation",
    "wall": "wall, ms",
    "wall_ratio": "of plain CFG",
    "busy": "GPU busy, ms",
    "busy_ratio": "of plain CFG",
    "launches_added": "launches added",
    "python_added": "Python added, ms",
    "peak": "peak",
    "peak_ratio": "of plain CFG",
    "startup": "start-up, s",
    "identical": "same bits",
}
VARIANTS = {"cfg": "cfg", "watch": "watch", "scfg": "scfg", "scfg, pytorch": "scfg"}
"""What is measured, and the host's variant behind it."""
CASES = {"sd15": ((64, 1), (64, 4), (128, 1)), "sdxl": ((128, 1), (128, 2), (256, 1))}
QUICK = {"sd15": ((64, 1),), "sdxl": ((128, 1),)}
"""Latent sides and images of every model."""
WARM_UP = 2
"""Evaluations of a sampling before those that count."""


@dataclass
class Watch:
    """Is told of every evaluation: how many of a sampling were seen, and when those that count began."""

    seen: int = 0
    begun: float = 0.0

    def __call__(self, evaluation: Callable[[], Tensor]) -> Tensor:
        if self.seen == WARM_UP:
            torch.cuda.synchronize()
            self.begun = time.perf_counter()
        self.seen += 1
        return evaluation()

    def spent(self, sample: Callable[[int], Tensor], evaluations: int) -> tuple[float, float]:
        """Seconds per evaluation until the host is free, and until the device is."""
        self.seen = 0
        sample(WARM_UP + evaluations)
        host = time.perf_counter()
        torch.cuda.synchronize()
        return (host - self.begun) / evaluations, (time.perf_counter() - self.begun) / evaluations


def main(options: argparse.Namespace, kind: Any) -> None:
    rows: list[dict[str, Any]] = []
    facts = clock.machine(options.device) | kind.facts()
    for name in options.model or CASES:
        watch = Watch()
        host = kind.Host(name, options.dtype or torch.float16, options.device, watch)
        cases = [(side, 1) for side in options.latent or ()] or (CASES if options.full else QUICK)[name]
        for side, images in cases:
            rows += measure(host, watch, side, images, options.pairs or 5)
            report.save(options.out / "host.json", "host", rows, facts)
        del host
    report.show("An evaluation on the GPU", rows, COLUMNS)


def measure(host: Any, watch: Watch, side: int, images: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of one case, one per variant."""
    case = f"{host.name} {side}², {images} image{'s' if images > 1 else ''}"
    evaluations = 4 if images * side * side > 128 * 128 else 18
    found: dict[str, dict[str, Any]] = {variant: {} for variant in VARIANTS}
    pictures: dict[str, list[Tensor]] = {variant: [] for variant in VARIANTS}
    walls: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    pythons: dict[str, list[float]] = {variant: [] for variant in VARIANTS}

    def sample(variant: str, count: int) -> Tensor:
        with _backend(variant):
            return host.sample(VARIANTS[variant], side, count, images)

    for variant, parts in found.items():
        torch.cuda.synchronize()
        begun = time.perf_counter()
        sample(variant, 1)
        torch.cuda.synchronize()
        parts["startup"] = time.perf_counter() - begun
    for turn in tqdm(range(rounds), desc=case, unit="round"):
        for variant in list(VARIANTS)[:: 1 if turn % 2 == 0 else -1]:
            python, wall = watch.spent(lambda count, variant=variant: sample(variant, count), evaluations)
            walls[variant].append(1000 * wall)
            pythons[variant].append(1000 * python)
    for variant, parts in found.items():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        pictures[variant] = [sample(variant, 3) for _ in range(2)]
        parts["peak_bytes"] = torch.cuda.max_memory_allocated() - before
        parts |= _profiled(lambda count, variant=variant: sample(variant, count), 3)
        parts |= {"wall": statistics.median(walls[variant]), "walls": walls[variant]}
        parts |= {"python": statistics.median(pythons[variant])}
    plain = found["cfg"]
    rows = []
    for variant, parts in found.items():
        ratios = {f"{key}_ratio": parts[key] / plain[key] for key in ("busy", "peak_bytes")}
        added = {f"{key}_added": parts[key] - plain[key] for key in ("launches", "python")}
        turns = clock.Ratio.of(walls[variant], walls["cfg"])
        row = {"name": f"{case}, {variant}", "case": case, "variant": variant} | parts | ratios | added
        row |= {"wall_ratio": turns.median, "wall_interval": [turns.low, turns.high]}
        row |= {"peak": report.mib(parts["peak_bytes"]), "peak_ratio": ratios["peak_bytes_ratio"]}
        expected = pictures["cfg"][0] if variant == "watch" else pictures[variant][0]
        row["identical"] = "yes" if all(picture.equal(expected) for picture in pictures[variant]) else "no"
        rows.append(row)
    return rows


@contextlib.contextmanager
def _backend(variant: str) -> Iterator[None]:
    """Triton off where the variant says so, as on a machine that has none."""
    with mock.patch.object(backend, "_distrusted", True) if "pytorch" in variant else contextlib.nullcontext():
        yield


def _profiled(sample: Callable[[int], Tensor], evaluations: int) -> dict[str, Any]:
    """Busy milliseconds and launches per evaluation."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        sample(evaluations)
        torch.cuda.synchronize()
    kernels = [event for event in seen.events() if event.device_type == DeviceType.CUDA]
    busy = sum(event.time_range.elapsed_us() for event in kernels) / 1000
    return {"busy": busy / evaluations, "launches": len(kernels) // evaluations}
