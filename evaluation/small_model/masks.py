"""How well masks from words fit the true things: `python -m evaluation masks` → IoU by step and over all steps.

True images of held-out captions are noised along one schedule, as a sampler would pass through it; at every step
the masks are those that S-CFG Token Mask gives for the words of each thing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from demo.model import DEFAULT, DemoModel
from scfg_core import Grid, Settings, TokenMaps
from scfg_core.run.masks import hard_mask, labels_of_scores, soft_mask, stretch

from ..statistics import Figure, mean_of_groups
from .judge import GRID
from .noised import TrueScenes, watch_noised
from .sampling import load_fast, schedule

SIZE, SEED = Grid(GRID, GRID), 12


def thing_overlaps(true: TrueScenes, labels: Tensor, scores: Tensor) -> dict[str, list[list[float]]]:
    """Per scene, IoU of each thing's patches with its hard mask, and with its stretched mask above a half.

    labels (N, 16, 16); scores (N, 256, L): Ĉ.
    """
    found: dict[str, list[list[float]]] = {"hard": [], "stretched": []}
    for row, present in enumerate(true.scenes.present.tolist()):
        alone = TokenMaps(scores[row : row + 1], SIZE, renormalised=True)
        hard, soft = [], []
        for thing in (slot for slot, there in enumerate(present) if there):
            wanted = torch.nonzero(true.token_owners[row] == thing).flatten().tolist()
            truth = true.patches[row] == thing
            hard.append(_overlap(hard_mask(labels[row : row + 1], wanted, SIZE)[0] > 0.5, truth))
            soft.append(_overlap(stretch(soft_mask(alone, wanted, SIZE))[0] > 0.5, truth))
        found["hard"].append(hard)
        found["stretched"].append(soft)
    return found


def _overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


def measure(model: DemoModel, true: TrueScenes, steps: int) -> dict[str, Figure]:
    """IoU of the masks at every step of a schedule, and of the average over the steps."""
    figures: dict[str, Figure] = {}
    total = torch.zeros(())
    for t in schedule(model, steps).timesteps.tolist():
        runs = watch_noised(model, true, t, Settings.preset("default"))
        labels = torch.cat([run.evaluations[-1].labels for run in runs])
        scores = torch.cat([maps.values for run in runs if (maps := run.mean_scores()) is not None])
        for kind, groups in thing_overlaps(true, labels, scores).items():
            figures[f"{kind}, t {t}"] = mean_of_groups(groups)
        total = total + scores
    average = labels_of_scores(TokenMaps(total, SIZE, renormalised=True))
    for kind, groups in thing_overlaps(true, average, total).items():
        figures[f"{kind}, averaged"] = mean_of_groups(groups)
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation masks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=DEFAULT)
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    figures = measure(load_fast(options.weights, "cpu"), TrueScenes.held_out(options.scenes, SEED), options.steps)
    print(f"IoU of masks from words with the true things, {options.scenes} scenes, 95 % intervals")
    for name, figure in figures.items():
        print(f"  {name:<20} {figure}")
