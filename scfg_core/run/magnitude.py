"""Without attention: regions of 4×4 latent cells, whose guidance is brought to the mean of the image.

    r_p = mean(η) / mean_p(η)

Eq. 13 with every patch p its own region and the whole image as benchmark, clamped, smoothed, divided by its mean.
It is not the paper's method: nothing says which patches belong together. For models that cannot be observed.
"""

from dataclasses import replace

import torch

from ..grid import Grid
from ..method.segment import Segmentation
from ..method.settings import Settings

PATCH = 4
"""Latent cells along a side of a region."""


def magnitude_settings(settings: Settings) -> Settings:
    """The settings of this mode; strength, start, end and cap stay as they are."""
    return replace(
        settings,
        regions="patch",
        benchmark="all",
        ratio_min=0.8,
        ratio_max=3.0,
        smooth_ratio=True,
        mean_preserving=True,
    )


def magnitude_patches(images: int, latent: Grid, device: torch.device) -> Segmentation:
    """The patches of a latent as a segmentation of one label; per frame, where it has several."""
    rows, columns = -(-(latent.h // latent.frames) // PATCH) * latent.frames, -(-latent.w // PATCH)
    labels = torch.zeros((images, rows, columns), dtype=torch.int64, device=device)
    return Segmentation(labels, torch.ones_like(labels, dtype=torch.bool), num_labels=1, frames=latent.frames)
