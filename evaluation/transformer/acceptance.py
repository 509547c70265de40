"""Measure a trained transformer of the picture book: `python -m evaluation accept --arch mmdit` → tables, a file.

Maps: token mIoU and START's foreground of every block at every noise level, for C only, R = 1 and R = 4, beside
what chance gives (`maps`). Guidance: CFG against S-CFG's settings at the same mean scale (`sampling`), as the judge
sees the images. Nothing is required here: which blocks `auto` should read is the question (`best_blocks`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from demo.joint.model import TransformerModel, load_transformer
from demo.training.muon import has_bfloat16
from demo.world import captions, held_out_scenes

from ..small_model.acceptance import IMAGE_SEED, MAP_SEED, NOISE_SEED
from ..small_model.judge import answers, load_judge, to_tensor
from ..small_model.system import OUT_OF_RANGE, to_pixels, verdicts
from ..statistics import Comparison, Figure, compare, mean_of_groups, share
from ..store import write_whole
from .drawing import draw_maps
from .maps import SIGMAS, VARIANTS, Subsets, measure_maps
from .sampling import ARMS, draw_arms

DRAWN_SCENES, DRAWN_SIGMA = 8, 0.4
KINDS = ("all right", "things", "ground", "sky")
COMPARED = (("default", "cfg"), ("default", "matched")) + tuple(
    (arm, "cfg") for arm in ("attention", "patches", "magnitude")
)
"""Arms and what each is read against; all but the first pair have the same mean scale."""


def measure_guidance(
    model: TransformerModel,
    scale: float,
    prompts: int,
    steps: int,
    arms: Sequence[str] = tuple(ARMS),
    blocks: Sequence[int] | None = None,
) -> tuple[dict[str, Figure], dict[str, Comparison]]:
    """What the judge says of every arm at γ = `scale`, and paired differences.

    blocks  that guidance by attention reads, see `sample`. What no caption of so few names has no figure.
    """
    scenes, judge = held_out_scenes(prompts, IMAGE_SEED), load_judge()
    seeds = [NOISE_SEED + index for index in range(prompts)]
    figures: dict[str, Figure] = {}
    whole, beyond = {}, {}
    ids = captions(scenes)[0]
    for name, drawn in draw_arms(model, ids, seeds, scale, arms, steps=steps, blocks=blocks).items():
        records = verdicts(answers(judge, to_tensor(to_pixels(drawn.images))), scenes)
        for kind in KINDS:
            named = [record[kind] for record in records if record[kind]]
            if named:
                figures[f"{kind}, {name}, γ {scale:g}"] = share(named)
        beyond[name] = [[value] for value in (drawn.images.abs() > OUT_OF_RANGE).float().mean((1, 2, 3)).tolist()]
        figures[f"out of range, {name}, γ {scale:g}"] = mean_of_groups(beyond[name])
        figures[f"mean γ·r, {name}, γ {scale:g}"] = mean_of_groups([[value] for value in drawn.scales.tolist()])
        whole[name] = [[float(right) for right in record["all right"]] for record in records]
    compared = {}
    for one, other in COMPARED:
        if one in whole and other in whole:
            compared[f"all right, {one} minus {other}, γ {scale:g}"] = compare(whole[one], whole[other])
            compared[f"out of range, {one} minus {other}, γ {scale:g}"] = compare(beyond[one], beyond[other])
    return figures, compared


def best_blocks(figures: dict[str, Figure], depth: int) -> list[tuple[str, float]]:
    """The blocks by their token mIoU at R = 4, averaged over the noise levels, best first."""
    means = {
        subset: sum(figures[f"token mIoU, R = 4, {subset}, σ {sigma:g}"].mean for sigma in SIGMAS) / len(SIGMAS)
        for subset in Subsets(depth).names
    }
    return sorted(means.items(), key=lambda item: -item[1])


def table(figures: dict[str, Figure], depth: int) -> str:
    """Blocks down, noise levels across: token mIoU by variant, then START's foreground."""
    lines = []
    for measure in (*(f"token mIoU, {variant}" for variant in VARIANTS), "token mIoU by chance", *FOREGROUNDS):
        lines += ["", f"| {measure} | " + " | ".join(f"σ {sigma:g}" for sigma in SIGMAS) + " |"]
        lines.append("|---" * (len(SIGMAS) + 1) + "|")
        for subset in Subsets(depth).names:
            cells = (f"{figures[f'{measure}, {subset}, σ {sigma:g}'].mean:.2f}" for sigma in SIGMAS)
            lines.append(f"| {subset} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


FOREGROUNDS = (
    "START foreground IoU, R = 4",
    "START foreground IoU turned over",
    "START foreground IoU by chance",
)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in options.arms:
        if ARMS[name].matches not in (None, *options.arms):
            raise SystemExit(f"--arms: {name} needs {ARMS[name].matches}; add it")
    weights = options.weights or Path(f"out/training/{options.arch}.safetensors")
    model = load_transformer(weights)
    if model.config["architecture"] != options.arch:
        raise SystemExit(f"--arch: {weights} has the architecture {model.config['architecture']}; name that")
    if has_bfloat16(torch.device("cpu")):
        model.transformer.to(torch.bfloat16)
    depth = len(model.transformer.attentions())
    figures = measure_maps(model, options.scenes, MAP_SEED)
    print(table(figures, depth))
    print("\nblocks by token mIoU, R = 4, mean over σ:", best_blocks(figures, depth), flush=True)
    drawing = options.out.with_suffix(".png")
    print(drawing, draw_maps(model, DRAWN_SCENES, MAP_SEED, DRAWN_SIGMA, "R = 4", drawing), flush=True)
    compared: dict[str, Comparison] = {}
    for scale in options.scales if options.prompts else []:
        found, differences = measure_guidance(
            model, scale, options.prompts, options.steps, options.arms, options.blocks
        )
        for name, figure in (found | differences).items():
            print(f"{name:44} {figure}", flush=True)
        figures, compared = figures | found, compared | differences
    record = {
        "architecture": options.arch,
        "depth": depth,
        "scenes": options.scenes,
        "prompts": options.prompts,
        "blocks": options.blocks or "auto",
        "sampler": f"Euler, {options.steps} steps",
        "figures": {name: asdict(figure) for name, figure in figures.items()},
        "differences": {name: asdict(comparison) for name, comparison in compared.items()},
    }
    write_whole(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation accept --arch mmdit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--arch", choices=("mmdit", "cross"), required=True)
    parser.add_argument("--weights", type=Path, help="default: out/training/ARCH.safetensors")
    parser.add_argument("--scenes", type=int, default=128, help="whose maps are seen at every noise level")
    parser.add_argument("--prompts", type=int, default=96, help="drawn by every arm; 0: none")
    parser.add_argument("--scales", type=float, nargs="+", default=[3.0, 5.0], help="guidance scales γ")
    parser.add_argument(
        "--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM", help=", ".join(ARMS)
    )
    parser.add_argument(
        "--blocks", type=int, nargs="+", help="that guidance by attention reads; default: those of auto"
    )
    parser.add_argument("--steps", type=int, default=20, help="of Euler")
    parser.add_argument("--out", type=Path, default=Path("out/acceptance_transformer.json"))
    return parser
