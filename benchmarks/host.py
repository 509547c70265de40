"""A step of CFG, watched, under S-CFG and under naive S-CFG, on a real host with random weights in true layouts.

Time is that of an evaluation after the first one (the first S-CFG evaluation does not know yet that it will guide,
so it computes attention and maps apart). Peaks are live bytes above the model; kept bytes are what is alive between
two evaluations beyond what plain CFG keeps. Two more rows leave out how the rest of a step scatters: what the
watched layers took more than in the plain steps of the same run, and what they add when each is measured by itself;
both with the guidance, over the plain step. On a GPU `gpu` measures.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from . import clock, comfyui, gpu, on_diffusers, overhead, report
from .clock import Ratio
from .meter import Meter
from .naive import GIB, maps_bytes, powers_flop

VARIANTS = ("cfg", "watch", "scfg", "naive")
MODELS = ("sd15", "sdxl")
QUICK = {"sd15": (32,), "sdxl": (32,)}
FULL = {"sd15": (64, 128), "sdxl": (128,)}
COUNT = {"sd15": (64, 128), "sdxl": (64, 128, 256)}
"""Latents of --memory-only, which are counted in seconds."""
NAIVE_TFLOP = 2
"""Most that the naive version is timed with on a CPU, 10¹² operations of forming powers of S."""
NAIVE_GIB = 8
"""Most that the naive version may keep of maps to be counted on a CPU."""
COLUMNS = {
    "case": "model, latent",
    "variant": "variant",
    "time": "time, of plain CFG",
    "first_time_ratio": "first evaluation",
    "peak": "peak above the model",
    "peak_ratio": "of plain CFG's",
    "kept": "kept between steps",
    "calls": "U-Net calls",
    "identical": "identical to plain CFG",
}


def time(host: Any, meter: Meter, side: int, variants: list[str], pairs: int) -> dict[str, dict[str, Any]]:
    """Seconds of every variant's evaluations, taken in turns, as parts of rows."""
    later: dict[str, list[float]] = {variant: [] for variant in variants}
    first: dict[str, list[float]] = {variant: [] for variant in variants}
    inside: dict[str, list[float]] = {variant: [] for variant in variants}
    pictures: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    if pairs > 1:
        host.sample("cfg", side, 2)
    with tqdm(total=pairs * len(variants) - ("naive" in variants) * (pairs - 1), unit="run") as bar:
        for pair in range(pairs):
            for variant in variants if pair % 2 == 0 else variants[::-1]:
                if variant == "naive" and pair:
                    continue
                bar.set_postfix_str(f"{host.name} {side}²: {variant}")
                meter.restart()
                pictures[variant] = host.sample(variant, side, 2)
                calls[variant] = host.calls
                first[variant].append(meter.times[0])
                later[variant].append(meter.times[1])
                inside[variant].append(meter.inside[1])
                bar.write(f"{host.name} {side}² {variant}: {meter.times[0]:.2f} s, {meter.times[1]:.2f} s")
                bar.update()
    parts = {}
    for variant in variants:
        ratio = Ratio.of(later[variant], later["cfg"][: len(later[variant])])
        parts[variant] = ratio.parts() | {
            "first_time_ratio": Ratio.of(first[variant], first["cfg"][: len(first[variant])]).median,
            "seconds": sorted(later[variant])[len(later[variant]) // 2],
            "inside": inside[variant],
            "all_seconds": [list(pair) for pair in zip(first[variant], later[variant], strict=True)],
            "calls": calls[variant],
            "identical": "yes" if pictures[variant].equal(pictures["cfg"]) else "no",
        }
    return parts


def count(host: Any, meter: Meter, side: int, variants: list[str]) -> dict[str, dict[str, Any]]:
    """Bytes of every variant, as parts of rows."""
    sizes = {
        variant: meter.memory(host, side, variant)
        for variant in tqdm(variants, unit="run", desc=f"{host.name} {side}²: memory")
    }
    plain_peak, plain_kept = sizes["cfg"]
    return {
        variant: {
            "peak_bytes": peak,
            "peak": report.mib(peak),
            "peak_ratio": peak / plain_peak,
            "kept_bytes": kept - plain_kept,
            "kept": report.mib(kept - plain_kept),
        }
        for variant, (peak, kept) in sizes.items()
    }


def by_layers(
    name: str, side: int, dtype: torch.dtype, pairs: int, found: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """S-CFG's time by its layers, over the seconds of a plain step: rows of what they took within the steps that
    were timed, and of the sum of each measured by itself.
    """
    plain, layers = found["cfg"]["seconds"], overhead.measure(name, side, dtype, pairs, "cpu")
    low, high = (1 + (added + layers["guidance"]) / plain for added in layers["added_interval"])
    alone = Ratio(1 + (layers["added"] + layers["guidance"]) / plain, low, high, pairs)
    rows = {"scfg, sum of layers": alone.parts()}
    rows["scfg, sum of layers"] |= {f"layers_{key}": layers[key] for key in ("attention", "added", "guidance")}
    more = zip(found["scfg"]["inside"], found["cfg"]["inside"], strict=True)
    ours = [plain + guided - bare + layers["guidance"] for guided, bare in more]
    return {"scfg, within its layers": Ratio.of(ours, [plain] * len(ours)).parts()} | rows


def main(options: argparse.Namespace) -> None:
    kind = comfyui if comfyui.start(options.device) is None else on_diffusers
    problem = kind.start(options.device)
    if problem:
        raise SystemExit(problem)
    if options.device != "cpu":
        gpu.main(options, kind)
        return
    sizes = COUNT if options.memory_only else FULL if options.full else QUICK
    pairs = options.pairs or (1 if options.full else 5)
    rows: list[dict[str, Any]] = []
    facts = clock.machine(options.device) | kind.facts()
    for name in options.model or MODELS:
        dtype = options.dtype or (torch.float32 if name == "sd15" else torch.bfloat16)
        meter = Meter()
        host = kind.Host(name, dtype, "cpu", meter)
        meter.listen(host.watched)
        for side in options.latent or sizes[name]:
            found: dict[str, dict[str, Any]] = {}
            if not options.memory_only:
                found = time(host, meter, side, _variants(options, name, side, timed=True), pairs)
            for variant, parts in count(host, meter, side, _variants(options, name, side, timed=False)).items():
                found[variant] = found.get(variant, {}) | parts
            if not options.memory_only:
                found |= by_layers(name, side, dtype, max(5, pairs), found)
            case = f"{name} {side}²"
            for variant, parts in found.items():
                row = {"name": f"{case}, {variant}", "time_ratio": None, "peak_ratio": None}
                row |= {"case": case, "variant": variant, "dtype": str(dtype).removeprefix("torch.")}
                rows.append(row | parts)
            report.save(options.out / "host.json", "host", rows, facts)
        del host, meter
    report.show("A step on the host", rows, COLUMNS)


def _variants(options: argparse.Namespace, name: str, side: int, timed: bool) -> list[str]:
    """All of them, but the naive one only where it ends in minutes and fits a machine."""
    kept = maps_bytes(name, side)
    fits = kept <= NAIVE_GIB * GIB and (not timed or powers_flop(name, side) <= NAIVE_TFLOP * 1e12)
    return [variant for variant in VARIANTS if variant != "naive" or (fits and not options.no_naive)]
