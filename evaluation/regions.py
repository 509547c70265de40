"""Regions that take the place of S-CFG's own: a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from scfg_core import Segmentation


def shuffled(found: Segmentation, seeds: Sequence[int]) -> Segmentation:
    """Regions of the same sizes without meaning: the patches of each image permuted, alike at every evaluation."""
    area = found.grid.area
    order = torch.stack([torch.randperm(area, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    order = order.to(found.labels.device)

    def permute(values: Tensor) -> Tensor:
        return values.flatten(1).gather(1, order).view_as(values)

    return replace(found, labels=permute(found.labels), foreground=permute(found.foreground))
