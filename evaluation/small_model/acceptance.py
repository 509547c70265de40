"""Measure the demo model against what it must reach: `python -m evaluation accept` → a table.

Pictures: held-out captions are drawn with DDIM and plain classifier-free guidance, and judged by `demo.score`.
Maps: true pictures of held-out captions are noised to a step t and given to the U-Net with their caption and
with the empty prompt; `scfg_core.segment` turns its attention into a label map and a foreground. On the
16x16 grid a patch belongs to a phrase if its winning token is one of the phrase's words, and to the background
if it is START or a word of the background phrase; END, PAD and "and" belong to nobody. The truth is whatever
covers more than half of a patch. Token mIoU is the mean of intersection over union over all phrases and
backgrounds of all scenes. START's foreground is that of Eq. 14, from the empty prompt.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from demo.model import DEFAULT, LENGTH, DemoModel, load_model
from demo.score import score
from demo.world import BACKGROUND, NOBODY, Description, Scenes, held_out_scenes, patches
from scfg_core import Segmentation, Settings, segment

from ..statistics import Figure, mean_of_groups, share
from .maps import watch

TIMES = (50, 200, 400, 600)
GAMMAS = (3.0, 4.0, 5.0)
FOUR_POWERS = Settings.preset("paper")
VARIANTS = {
    "C only": replace(FOUR_POWERS, power_weights=(1.0,)),
    "R = 1": replace(FOUR_POWERS, power_weights=(0.0, 1.0)),
    "R = 4": FOUR_POWERS,
    "authors": Settings.preset("authors"),
}


@torch.no_grad()
def paint(model: DemoModel, captions: list[str], gamma: float, steps: int, seed: int, batch: int = 50) -> Tensor:
    """Pictures (N, 3, 32, 32) by DDIM and classifier-free guidance at a fixed scale gamma."""
    scheduler = DDIMScheduler(**model.scheduler_config)
    scheduler.set_timesteps(steps)
    noise = torch.randn(len(captions), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    pictures = []
    for first in range(0, len(captions), batch):
        told = captions[first : first + batch]
        context = model.text_encoder(model.tokenizer([""] * len(told) + told))
        x = noise[first : first + batch]
        for t in scheduler.timesteps:
            uncond, cond = model.unet(torch.cat([x, x]), t, encoder_hidden_states=context).sample.chunk(2)
            x = scheduler.step(uncond + gamma * (cond - uncond), t, x).prev_sample
        pictures.append(x)
    return torch.cat(pictures)


@torch.no_grad()
def segment_noised(model: DemoModel, scenes: Scenes, t: int, settings: tuple[Settings, ...]) -> list[Segmentation]:
    """Label maps and foregrounds of true pictures noised to step t, one result per settings."""
    alpha = DDIMScheduler(**model.scheduler_config).alphas_cumprod[t]
    noise = torch.randn(scenes.images.shape, generator=torch.Generator().manual_seed(t))
    x = alpha.sqrt() * scenes.images + (1 - alpha).sqrt() * noise
    branches = []
    for captions in ([d.caption for d in scenes.descriptions], [""] * len(scenes)):
        with watch(model.unet) as seen:
            model.unet(x, t, encoder_hidden_states=model.text_encoder(model.tokenizer(captions)))
            branches.append(seen.layers())
    return [segment(*branches, s) for s in settings]


def owners(descriptions: list[Description]) -> Tensor:
    """Who owns each token: a phrase's index, `BACKGROUND` (START, too) or `NOBODY`: (N, 20)."""
    out = torch.full((len(descriptions), LENGTH), NOBODY)
    for row, d in zip(out, descriptions, strict=True):
        said = [owner for _, owner in d.words()]
        row[: 1 + len(said)] = torch.tensor([BACKGROUND, *said])
    return out


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two masks."""
    return ((a & b).sum() / (a | b).sum().clamp(min=1)).item()


def region_overlaps(labels: Tensor, scenes: Scenes) -> tuple[list[list[float]], list[list[float]]]:
    """Per scene, the IoU of each phrase's region, and of the background's. labels: (N, h, w)."""
    who = torch.stack([row[label] for row, label in zip(owners(scenes.descriptions), labels, strict=True)])
    side = labels.shape[-1]
    shapes, ground = patches(scenes.masks, side) > 0.5, patches(scenes.background_mask, side) > 0.5
    of_phrases = [
        [overlap(w == k, mask[k]) for k in range(len(d.phrases))]
        for w, mask, d in zip(who, shapes, scenes.descriptions, strict=True)
    ]
    of_background = [[overlap(w == BACKGROUND, mask)] for w, mask in zip(who, ground, strict=True)]
    return of_phrases, of_background


def measure_pictures(model: DemoModel, n: int, steps: int) -> dict[str, Figure]:
    """Phrase, colour, shape and background accuracy at each guidance scale."""
    told = held_out_scenes(n, seed=500_001).descriptions
    out = {}
    for gamma in GAMMAS:
        pictures = paint(model, [d.caption for d in told], gamma, steps, seed=1)
        scores = score(pictures, told)
        out[f"phrase accuracy, gamma {gamma:g}"] = share([list(s.phrases) for s in scores])
        out[f"colour accuracy, gamma {gamma:g}"] = share([list(s.colours) for s in scores])
        out[f"shape accuracy, gamma {gamma:g}"] = share([list(s.shapes) for s in scores])
        said = [[s.background] for s in scores if s.background is not None]
        out[f"background accuracy, gamma {gamma:g}"] = share(said)
    return out


def measure_maps(model: DemoModel, n: int) -> dict[str, Figure]:
    """Token mIoU of every variant, and the foreground of START, at each noise level."""
    scenes = held_out_scenes(n, seed=500_002)
    truth = patches(scenes.background_mask, 16) < 0.5
    out = {}
    for t in TIMES:
        results = dict(zip(VARIANTS, segment_noised(model, scenes, t, tuple(VARIANTS.values())), strict=True))
        regions = {}
        for name, result in results.items():
            phrases, ground = region_overlaps(result.labels, scenes)
            regions[name] = [p + g for p, g in zip(phrases, ground, strict=True)]
            out[f"token mIoU, {name}, t {t}"] = mean_of_groups(regions[name])
            out[f"of phrases, {name}, t {t}"] = mean_of_groups(phrases)
            out[f"of backgrounds, {name}, t {t}"] = mean_of_groups(ground)
        gains = [(np.array(r) - c).tolist() for r, c in zip(regions["R = 4"], regions["C only"], strict=True)]
        out[f"R = 4 minus C only, t {t}"] = mean_of_groups(gains)
        found = [[overlap(f, m)] for f, m in zip(results["R = 4"].foreground, truth, strict=True)]
        out[f"START foreground IoU, t {t}"] = mean_of_groups(found)
    return out


def judge(figures: dict[str, Figure], megabytes: float) -> dict[str, bool]:
    """Every acceptance criterion, met or not."""

    def all_reach(name: str, where: str, values: tuple, least: float) -> bool:
        return all(figures[f"{name}, {where} {v:g}"].mean >= least for v in values)

    early = tuple(t for t in TIMES if t <= 400)
    return {
        "phrase accuracy >= 0.9 at every gamma": all_reach("phrase accuracy", "gamma", GAMMAS, 0.9),
        "background accuracy >= 0.98 at every gamma": all_reach("background accuracy", "gamma", GAMMAS, 0.98),
        "START foreground IoU >= 0.6 at t <= 400": all_reach("START foreground IoU", "t", early, 0.6),
        "token mIoU, R = 4, >= 0.5 at t <= 400": all_reach("token mIoU, R = 4", "t", early, 0.5),
        "R = 4 above C only at t <= 400": all(figures[f"R = 4 minus C only, t {t}"].low > 0 for t in early),
        "weights <= 8 MB": megabytes <= 8,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation accept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, default=DEFAULT)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20, help="DDIM steps")
    parser.add_argument("--out", type=Path, default=Path("out/acceptance.json"))
    args = parser.parse_args(arguments)
    torch.set_flush_denormal(True)
    model = load_model(args.weights)
    figures = measure_maps(model, args.scenes) | measure_pictures(model, args.prompts, args.steps)
    megabytes = args.weights.stat().st_size / 1e6
    verdict = judge(figures, megabytes)
    for name, figure in figures.items():
        print(f"{name:42} {figure}  n = {figure.n}")
    for name, met in verdict.items():
        print(f"{'met   ' if met else 'MISSED'} {name}")
    record = {
        "prompts": args.prompts,
        "scenes": args.scenes,
        "ddim_steps": args.steps,
        "megabytes": round(megabytes, 2),
        "criteria": verdict,
        "figures": {k: [round(x, 4) for x in (f.mean, f.low, f.high)] + [f.n] for k, f in figures.items()},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(record, indent=1) + "\n")
