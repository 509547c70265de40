"""Measure the demo model against what it must reach: `python -m evaluation accept` → a table, and acceptance.json.

Images: held-out captions are drawn with DDIM and plain classifier-free guidance, and seen by the judge. Maps: true
images of held-out captions are noised to a step t and given to the U-Net with their caption and with the empty
prompt; S-CFG watches. On the 16×16 grid a patch belongs to whatever its winning token names: a thing, the ground or
the sky; START, END, padding and "and" name nothing. The truth is whatever covers most of a patch. Token mIoU is the
mean of intersection over union over all things, grounds and skies that the captions name, of all scenes. START's
foreground is that of Eq. 14, from the empty prompt; its truth is where the things are.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from demo.model import DEFAULT, DemoModel
from demo.world import GROUND, captions, held_out_scenes
from scfg_core import Settings, uniform_powers

from ..statistics import Figure, mean_of_groups, share
from ..store import write_whole
from .judge import Judge, answers, load_judge, to_tensor
from .noised import TrueScenes, watch_noised
from .sampling import load_fast, sample, starting_noise
from .system import to_pixels, verdicts
from .train_judge import HELD_OUT_SEED, accuracy

TIMES = (50, 200, 400, 600, 800)
FOUR_POWERS = Settings.preset("default")
VARIANTS = {
    "C only": replace(FOUR_POWERS, power_weights=uniform_powers(0)),
    "R = 1": replace(FOUR_POWERS, power_weights=uniform_powers(1)),
    "R = 4": FOUR_POWERS,
}
IMAGE_SEED, NOISE_SEED, MAP_SEED = 31, 40_000, 11
GUIDED, UNGUIDED = 5.0, 1.0
LARGEST = 16.0
"""Of the weights, MB."""


@dataclass(frozen=True)
class Criterion:
    """What a figure must reach: "at least" or "at most" a bound; or its interval, to lie "above" it."""

    figure: str
    rule: str
    bound: float

    def met(self, figures: dict[str, Figure]) -> bool:
        found = figures[self.figure]
        return {
            "at least": found.mean >= self.bound,
            "at most": found.mean <= self.bound,
            "above": found.low > self.bound,
        }[self.rule]


CRITERIA = (
    Criterion("things, γ 5", "at least", 0.95),
    Criterion("ground, γ 5", "at least", 0.98),
    Criterion("sky, γ 5", "at least", 0.98),
    Criterion("things, γ 1", "at most", 0.90),
    *(Criterion(f"START foreground IoU, t {t}", "at least", 0.6) for t in TIMES if t <= 400),
    Criterion("token mIoU, R = 4, t 400", "at least", 0.5),
    Criterion("token mIoU, R = 4, t 600", "at least", 0.55),
    *(Criterion(f"R = 4 minus C only, t {t}", "above", 0.0) for t in (400, 600)),
    Criterion("judge, things", "at least", 0.995),
    Criterion("judge, ground", "at least", 0.995),
    Criterion("judge, sky", "at least", 0.995),
    Criterion("weights, MB", "at most", LARGEST),
)


def measure_images(model: DemoModel, judge: Judge, count: int, steps: int, batch: int = 16) -> dict[str, Figure]:
    """Shares of right things, grounds and skies, and of images in which all is right, with and without guidance."""
    scenes = held_out_scenes(count, IMAGE_SEED)
    tokens, _ = captions(scenes)
    figures = {}
    for gamma in (GUIDED, UNGUIDED):
        records = []
        for start in range(0, count, batch):
            rows = slice(start, start + batch)
            noise = starting_noise([NOISE_SEED + index for index in range(start, min(start + batch, count))])
            images, _ = sample(model, tokens[rows], noise, [gamma] * len(noise), steps=steps)
            records += verdicts(answers(judge, to_tensor(to_pixels(images))), scenes[rows])
        for name in ("things", "ground", "sky", "all right"):
            figures[f"{name}, γ {gamma:g}"] = share([record[name] for record in records if record[name]])
    return figures


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of masks (N, h, w): (N,); 0 where both are empty."""
    both, either = (one & other).sum((1, 2)), (one | other).sum((1, 2))
    return both / either.clamp(min=1)


def token_overlaps(labels: Tensor, true: TrueScenes) -> list[list[float]]:
    """Per scene, the IoU of every region that its caption names and its image shows. labels (N, 16, 16)."""
    tokens = rearrange(labels.long().clamp(min=0), "n h w -> n (h w)")
    found = true.token_owners.gather(1, tokens).view_as(labels)
    said = true.scenes.said()
    overlaps = []
    for owner in range(said.shape[1]):
        shown = true.patches == owner
        counted = said[:, owner] & shown.flatten(1).any(dim=1)
        overlaps.append(torch.where(counted, overlap(found == owner, shown).double(), torch.nan))
    return [[value for value in row if value == value] for row in torch.stack(overlaps, dim=1).tolist()]


def measure_maps(model: DemoModel, count: int) -> dict[str, Figure]:
    """Token mIoU of every variant, and the foreground of START, at each noise level."""
    true = TrueScenes.held_out(count, MAP_SEED)
    figures = {}
    for t in TIMES:
        regions = {}
        for name, settings in VARIANTS.items():
            seen = [run.evaluations[-1] for run in watch_noised(model, true, t, settings)]
            regions[name] = token_overlaps(torch.cat([one.labels for one in seen]), true)
            figures[f"token mIoU, {name}, t {t}"] = mean_of_groups(regions[name])
            if name == "R = 4":
                foreground = torch.cat([one.foreground for one in seen])
                found = overlap(foreground, true.patches < GROUND)
                figures[f"START foreground IoU, t {t}"] = mean_of_groups([[value] for value in found.tolist()])
        gains = [
            (np.array(ours) - theirs).tolist()
            for ours, theirs in zip(regions["R = 4"], regions["C only"], strict=True)
        ]
        figures[f"R = 4 minus C only, t {t}"] = mean_of_groups(gains)
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation accept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", type=Path, default=DEFAULT)
    parser.add_argument("--prompts", type=int, default=256, help="drawn at γ 5 and at γ 1")
    parser.add_argument("--scenes", type=int, default=128, help="whose maps are seen at every t")
    parser.add_argument("--true-scenes", type=int, default=4000, help="that the judge is tried on")
    parser.add_argument("--steps", type=int, default=20, help="of DDIM")
    parser.add_argument("--out", type=Path, default=Path("out/acceptance.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model, judge = load_fast(options.weights, "cpu"), load_judge()
    megabytes = options.weights.stat().st_size / 1e6
    figures = {f"judge, {name}": figure for name, figure in accuracy(judge, options.true_scenes).items()}
    figures |= measure_maps(model, options.scenes)
    figures |= measure_images(model, judge, options.prompts, options.steps)
    figures["weights, MB"] = Figure(megabytes, megabytes, megabytes, 1)
    for name, figure in figures.items():
        print(f"{name:32} {figure}  n = {figure.n}")
    verdicts = [(criterion, criterion.met(figures)) for criterion in CRITERIA]
    for criterion, met in verdicts:
        print(f"{'met   ' if met else 'MISSED'} {criterion.figure} {criterion.rule} {criterion.bound:g}")
    record = {
        "command": f"python -m evaluation accept --prompts {options.prompts} --scenes {options.scenes}",
        "sampler": f"DDIM, {options.steps} steps, trailing",
        "seeds": {"images": IMAGE_SEED, "noise": NOISE_SEED, "maps": MAP_SEED, "judge": HELD_OUT_SEED},
        "criteria": [asdict(criterion) | {"met": met} for criterion, met in verdicts],
        "figures": {name: _rounded(figure) for name, figure in figures.items()},
    }
    write_whole(options.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _rounded(figure: Figure) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(figure).items()}
