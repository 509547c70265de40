"""A step of CFG, watched, under S-CFG and under naive S-CFG, on a real host with random weights in true layouts.

Time is that of an evaluation after the first one (the first S-CFG evaluation does not know yet that it will guide,
so it computes attention and maps apart). Peaks are live bytes above the model; kept bytes are what is alive between
two evaluations beyond what plain CFG keeps.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import clock, comfyui, on_diffusers, report
from .clock import Ratio, seconds
from .memory import LiveBytes

VARIANTS = ("cfg", "watch", "scfg", "naive")
MODELS = ("sd15", "sdxl")
QUICK = {"sd15": (32,), "sdxl": (32,)}
FULL = {"sd15": (64, 128), "sdxl": (128,)}
FULL_GPU = {"sd15": (64, 128), "sdxl": (128, 256)}
NAIVE_AT_MOST = 64 * 64
"""Largest latent for the naive version on a CPU, which forms n³ and takes minutes and GiB beyond it."""
COLUMNS = {
    "name": "model, latent",
    "variant": "variant",
    "time": "time, of plain CFG",
    "first_time_ratio": "first evaluation",
    "peak": "peak above the model",
    "peak_ratio": "of plain CFG's",
    "kept": "kept between steps",
    "identical": "identical to plain CFG",
}


class Meter:
    """Is told of every evaluation, and counts its time or its memory."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.memory: LiveBytes | None = None
        self.times: list[float] = []
        self.peaks: list[int] = []
        self.kept: list[int] = []

    def restart(self) -> None:
        self.times, self.peaks, self.kept = [], [], []

    def __call__(self, evaluation: Callable[[], Tensor]) -> Tensor:
        results: list[Tensor] = []
        if self.device == "cpu" and self.memory is not None:
            self.kept.append(self.memory.live)
            self.memory.restart()
            results.append(evaluation())
            self.peaks.append(self.memory.peak)
        else:
            if self.device != "cpu":
                torch.cuda.reset_peak_memory_stats()
                self.kept.append(torch.cuda.memory_allocated())
            self.times.append(seconds(lambda: results.append(evaluation()), self.device))
            if self.device != "cpu":
                self.peaks.append(torch.cuda.max_memory_allocated() - self.kept[0])
        return results[0]


def measure(host: Any, meter: Meter, side: int, variants: list[str], pairs: int, bar: tqdm) -> list[dict[str, Any]]:
    """Rows of one model and size."""
    later: dict[str, list[float]] = {variant: [] for variant in variants}
    first: dict[str, list[float]] = {variant: [] for variant in variants}
    pictures: dict[str, Tensor] = {}
    if pairs > 1:
        host.sample("cfg", side, 1)
    for pair in range(pairs):
        order = variants if pair % 2 == 0 else variants[::-1]
        for variant in order:
            if variant == "naive" and pair:
                continue
            bar.set_postfix_str(f"{host.name} {side}²: {variant}")
            meter.restart()
            pictures[variant] = host.sample(variant, side, 2)
            first[variant].append(meter.times[0])
            later[variant].append(meter.times[1])
            bar.update()
    memory = {}
    for variant in variants:
        bar.set_postfix_str(f"{host.name} {side}²: memory of {variant}")
        memory[variant] = _memory(host, meter, side, variant)
        bar.update()
    rows = []
    for variant in variants:
        ratio = Ratio.of(later[variant], later["cfg"][: len(later[variant])])
        peak, kept = memory[variant]
        rows.append(
            {
                "name": f"{host.name} {side}²",
                "variant": variant,
                "time": str(ratio),
                "time_ratio": ratio.median,
                "time_interval": [ratio.low, ratio.high],
                "pairs": ratio.pairs,
                "first_time_ratio": Ratio.of(first[variant], first["cfg"][: len(first[variant])]).median,
                "seconds": sorted(later[variant])[len(later[variant]) // 2],
                "peak_bytes": peak,
                "peak": report.mib(peak),
                "peak_ratio": peak / memory["cfg"][0],
                "kept_bytes": kept - memory["cfg"][1],
                "kept": report.mib(kept - memory["cfg"][1]),
                "identical": "yes" if pictures[variant].equal(pictures["cfg"]) else "no",
            }
        )
    return rows


def _memory(host: Any, meter: Meter, side: int, variant: str) -> tuple[int, int]:
    """Peak bytes of an evaluation, and bytes that are alive before the second one."""
    meter.restart()
    if meter.device == "cpu":
        with LiveBytes(hollow=True) as meter.memory:
            host.sample(variant, side, 2)
        meter.memory = None
        return max(meter.peaks), meter.kept[1]
    host.sample(variant, side, 2)
    return max(meter.peaks), meter.kept[1] - meter.kept[0]


def main(options: argparse.Namespace) -> None:
    from .__main__ import DTYPES

    kind = comfyui if comfyui.start(options.device) is None else on_diffusers
    problem = kind.start(options.device)
    if problem:
        raise SystemExit(problem)
    cpu = options.device == "cpu"
    sizes = (FULL if cpu else FULL_GPU) if options.full else QUICK
    pairs = options.pairs or (1 if options.full else 5)
    rows: list[dict[str, Any]] = []
    facts = clock.machine(options.device) | kind.facts()
    for name in options.model or MODELS:
        dtype = DTYPES[options.dtype or ("fp16" if not cpu else "fp32" if name == "sd15" else "bf16")]
        meter = Meter(options.device)
        model = kind.Host(name, dtype, options.device, meter)
        for side in options.latent or sizes[name]:
            variants = [
                variant
                for variant in VARIANTS
                if variant != "naive" or not (options.no_naive or (cpu and side * side > NAIVE_AT_MOST))
            ]
            with tqdm(total=pairs * len(variants) + len(variants), unit="run") as bar:
                rows += measure(model, meter, side, variants, pairs, bar)
        del model, meter
    report.show("A step on the host", rows, COLUMNS)
    report.save(options.out / "host.json", "host", rows, facts)
