"""How strongly images and their regions were guided, read off the record of a run."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

from scfg_core.run.record import Run

from .store import Record

SMALLEST_AREA = 0.01
"""Regions below this part of an image are left out: their means are noise."""


def strengths(run: Run | None) -> list[Record]:
    """Per image of a closed run: mean of γ·r, and how unequally its regions were guided (Figure 1).

    Empty where nothing was recorded. `spread` is that of r·η, `spread_unscaled` that of η, in the image's own run.
    """
    if run is None or not run.evaluations:
        return []
    scale = torch.stack(
        [reduce(seen.ratio, "b h w -> b", "mean") * seen.guidance_scale for seen in run.evaluations]
    )
    labels = run.evaluations[-1].labels
    after = spread(torch.stack([seen.rescaled for seen in run.evaluations]), labels)
    before = spread(torch.stack([seen.classifier for seen in run.evaluations]), labels)
    columns = (scale.mean(dim=0).tolist(), after.tolist(), before.tolist())
    return [
        {"mean_scale": mean, "spread": scaled, "spread_unscaled": unscaled}
        for mean, scaled, unscaled in zip(*columns, strict=True)
    ]


def spread(norms: Tensor, labels: Tensor) -> Tensor:
    """Standard deviation over mean of the regions' norms, by area, mean over the evaluations: (B,).

    norms (T, B, h, w); labels (B, h, w), fixed over the evaluations. Evaluations that are not finite are left out.
    """
    regions = rearrange(labels.long() + 1, "b h w -> b (h w)")
    values = rearrange(norms.double(), "t b h w -> t b (h w)")
    count = int(regions.max()) + 1
    area = values.new_zeros(len(labels), count).scatter_add_(1, regions, torch.ones_like(values[0]))
    sums = values.new_zeros(*values.shape[:2], count).scatter_add_(2, regions.expand_as(values), values)
    means = sums / area.clamp(min=1)
    weight = torch.where(area >= SMALLEST_AREA * regions.shape[1], area, 0.0)
    weight = weight / weight.sum(dim=1, keepdim=True)
    mean = (means * weight).sum(dim=2)
    deviation = ((means - mean[..., None]).square() * weight).sum(dim=2).sqrt()
    return (deviation / mean.clamp(min=1e-12)).nanmean(dim=0)
