"""Segmentation maps by block, drawn: a row per scene; the noised image, the truth, then every block's regions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from demo.joint.model import TransformerModel
from demo.wavelet import decode
from demo.world import GROUND, SKY

from ..small_model.noised import TrueScenes
from ..small_model.system import to_pixels
from .maps import Found, segment_noised

COLOURS = np.array(
    [[230, 80, 60], [60, 120, 230], [240, 190, 50], [90, 160, 80], [150, 200, 235], [60, 60, 60]], dtype=np.uint8
)
"""Of the three things, the ground, the sky, and of tokens and patches that name nothing."""

NOTHING = 5
SHOWN = 4
"""How many times a pixel of a map is enlarged, to the size of an image."""


def owners_of(found: Found, true: TrueScenes) -> Tensor:
    """Whatever the winning token of every patch names: (N, 16, 16); things, ground, sky, or `NOTHING`."""
    named = true.token_owners.gather(1, found.labels.clamp(min=0).flatten(1)).view_as(found.labels)
    return torch.where((found.labels >= 0) & (named >= 0), named, NOTHING)


def painted(owners: Tensor) -> np.ndarray:
    """Owners (16, 16) as an image (64, 64, 3) uint8."""
    assert GROUND < NOTHING and SKY < NOTHING
    return COLOURS[owners.numpy()].repeat(SHOWN, 0).repeat(SHOWN, 1)


def draw_maps(model: TransformerModel, count: int, seed: int, sigma: float, variant: str, path: Path) -> list[str]:
    """Write the drawing, and return what its columns are."""
    true = TrueScenes.held_out(count, seed)
    found = segment_noised(model, true, sigma)
    subsets = [subset for subset, name in found if name == variant]
    columns = ["image", "truth", *subsets, "START's foreground, all"]
    images = to_pixels(decode(true.latents))
    rows = []
    for row in range(count):
        cells = [images[row], painted(true.patches[row])]
        cells += [painted(owners_of(found[subset, variant], true)[row]) for subset in subsets]
        cells.append(painted(torch.where(found["all", variant].foreground[row], 0, NOTHING)))
        rows.append(
            np.concatenate([np.pad(cell, ((2, 2), (2, 2), (0, 0)), constant_values=255) for cell in cells], 1)
        )
    sheet = np.concatenate(rows, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(path)
    return columns
