"""What the attention of every block means: token mIoU and START's foreground by block and noise level.

True images of held-out captions are noised to σ and given to the transformer with their caption and with the empty
prompt. Chance is the same segmentation with the patches of every image permuted: equal sizes, no meaning.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from demo.joint.model import CELLS, CHANNELS, TransformerModel, blank_channels
from demo.world import GROUND
from scfg_core import Settings, uniform_powers
from scfg_core.collect.layers import choose_by_depth

from ..small_model.acceptance import overlap, token_overlaps
from ..small_model.noised import TrueScenes
from ..statistics import Figure, mean_of_groups
from .watching import by_length, evaluate, segmentation

SIGMAS = (0.05, 0.2, 0.4, 0.6, 0.8)
_DEFAULT = replace(Settings.preset("default"), strength=0.0)
VARIANTS = {
    "C only": replace(_DEFAULT, power_weights=uniform_powers(0)),
    "R = 1": replace(_DEFAULT, power_weights=uniform_powers(1)),
    "R = 4": _DEFAULT,
}
BATCH = 32


@dataclass
class Found:
    """Segmentations of N scenes: labels (N, 16, 16) int64, foreground (N, 16, 16) bool."""

    labels: Tensor
    foreground: Tensor

    @classmethod
    def empty(cls, true: TrueScenes) -> Found:
        return cls(torch.zeros_like(true.patches), torch.zeros_like(true.patches, dtype=torch.bool))


@dataclass
class Subsets:
    """Which blocks are read together: each alone, those of `auto`, and all."""

    depth: int
    names: dict[str, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        blocks = [str(index) for index in range(self.depth)]
        self.names = {f"block {index}": [index] for index in range(self.depth)}
        self.names["auto"] = [int(name) for name in choose_by_depth(blocks, "auto")]
        self.names["all"] = list(range(self.depth))


def segment_noised(model: TransformerModel, true: TrueScenes, sigma: float) -> dict[tuple[str, str], Found]:
    """The segmentations of every subset of the blocks and every variant at σ."""
    generator = torch.Generator().manual_seed(round(1000 * sigma))
    noise = torch.randn(len(true), CHANNELS, CELLS, CELLS, generator=generator)
    noised = (1 - sigma) * blank_channels(true.latents) + sigma * noise
    subsets = Subsets(len(model.transformer.attentions())).names
    found = {(subset, variant): Found.empty(true) for subset in subsets for variant in VARIANTS}
    for rows in by_length(true.tokens, BATCH):
        seen = evaluate(model, noised[rows], sigma, true.tokens[rows], scale=5.0)
        for (subset, variant), result in found.items():
            labels, foreground = segmentation(seen, subsets[subset], VARIANTS[variant])
            result.labels[rows], result.foreground[rows] = labels.long(), foreground
    return found


def permuted(found: Found) -> Found:
    """The same with the patches of every image in an order of chance."""
    area = found.labels[0].numel()
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(area, generator=generator) for _ in found.labels])

    def permute(values: Tensor) -> Tensor:
        return values.flatten(1).gather(1, order).view_as(values)

    return Found(permute(found.labels), permute(found.foreground))


def figures_at(model: TransformerModel, true: TrueScenes, sigma: float) -> dict[str, Figure]:
    """Token mIoU of every subset and variant at σ, its chance, R = 4 minus C only, and START's foreground."""
    things = true.patches < GROUND
    segmented = segment_noised(model, true, sigma)
    figures: dict[str, Figure] = {"whole image as foreground": _each(overlap(torch.ones_like(things), things))}
    regions: dict[tuple[str, str], list[list[float]]] = {}
    for (subset, variant), found in segmented.items():
        regions[subset, variant] = token_overlaps(found.labels, true)
        figures[f"token mIoU, {variant}, {subset}"] = mean_of_groups(regions[subset, variant])
        figures[f"START foreground IoU, {variant}, {subset}"] = _each(overlap(found.foreground, things))
        if variant == "R = 4":
            chance = permuted(found)
            figures[f"token mIoU by chance, {subset}"] = mean_of_groups(token_overlaps(chance.labels, true))
            figures[f"START foreground IoU by chance, {subset}"] = _each(overlap(chance.foreground, things))
            figures[f"START foreground IoU turned over, {subset}"] = _each(overlap(~found.foreground, things))
            gains = [
                [a - b for a, b in zip(one, other, strict=True)]
                for one, other in zip(regions[subset, "R = 4"], regions[subset, "C only"], strict=True)
            ]
            figures[f"R = 4 minus C only, {subset}"] = mean_of_groups(gains)
    return {f"{name}, σ {sigma:g}": figure for name, figure in figures.items()}


def _each(values: Tensor) -> Figure:
    return mean_of_groups([[value] for value in values.tolist()])


def measure_maps(model: TransformerModel, scenes: int, seed: int) -> dict[str, Figure]:
    """`figures_at` of every σ."""
    true = TrueScenes.held_out(scenes, seed)
    figures: dict[str, Figure] = {}
    for sigma in SIGMAS:
        figures |= figures_at(model, true, sigma)
    return figures
