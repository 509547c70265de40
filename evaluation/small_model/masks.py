"""How well masks from words fit the true shapes: `python -m evaluation masks` → IoU by step and over all steps.

True pictures of held-out captions are noised along one schedule, as a sampler would pass through it; at every step
the masks are those that S-CFG Token Mask gives for the words of each phrase.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from demo.model import DEFAULT, DemoModel, load_model
from demo.world import Scenes, held_out_scenes
from scfg_core import Grid, Segmentation, Settings, TokenMaps
from scfg_core.run.masks import hard_mask, labels_of_scores, soft_mask, stretch

from ..statistics import Figure, mean_of_groups
from .acceptance import overlap, owners, segment_noised

SIZE = Grid(32, 32)


def scores_of(result: Segmentation) -> TokenMaps:
    """Ĉ of a segmentation, as the trace keeps it."""
    assert result.scores is not None
    return TokenMaps(result.scores, result.grid, renormalised=True)


def phrase_overlaps(scenes: Scenes, labels: Tensor, scores: TokenMaps) -> dict[str, list[list[float]]]:
    """Per scene, IoU of each phrase's true shape with its hard mask, and with its stretched mask above a half."""
    found: dict[str, list[list[float]]] = {"hard": [], "stretched": []}
    for row, (who, masks, scene) in enumerate(
        zip(owners(scenes.descriptions), scenes.masks, scenes.descriptions, strict=True)
    ):
        own = TokenMaps(scores.values[row : row + 1], scores.grid, renormalised=True)
        hard, soft = [], []
        for phrase in range(len(scene.phrases)):
            wanted = torch.nonzero(who == phrase).flatten().tolist()
            truth = masks[phrase] > 0.5
            hard.append(overlap(hard_mask(labels[row : row + 1], wanted, SIZE)[0] > 0.5, truth))
            soft.append(overlap(stretch(soft_mask(own, wanted, SIZE))[0] > 0.5, truth))
        found["hard"].append(hard)
        found["stretched"].append(soft)
    return found


def measure(model: DemoModel, scenes: Scenes, steps: int) -> dict[str, Figure]:
    """IoU of the masks at every step of a schedule, and of the average over the steps."""
    scheduler = DDIMScheduler(**model.scheduler_config)
    scheduler.set_timesteps(steps)
    figures: dict[str, Figure] = {}
    total: Tensor | None = None
    grid = SIZE
    for t in scheduler.timesteps.tolist():
        (result,) = segment_noised(model, scenes, t, (Settings.preset("default"),))
        scores = scores_of(result)
        for kind, groups in phrase_overlaps(scenes, result.labels, scores).items():
            figures[f"{kind}, t {t}"] = mean_of_groups(groups)
        total = scores.values if total is None else total + scores.values
        grid = scores.grid
    assert total is not None
    average = TokenMaps(total, grid, renormalised=True)
    for kind, groups in phrase_overlaps(scenes, labels_of_scores(average), average).items():
        figures[f"{kind}, averaged"] = mean_of_groups(groups)
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation masks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=DEFAULT)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    figures = measure(load_model(options.weights), held_out_scenes(options.scenes, seed=500_003), options.steps)
    print(f"IoU of masks from words with the true shapes, {options.scenes} scenes, 95 % intervals")
    for name, figure in figures.items():
        print(f"  {name:<20} {figure}")
