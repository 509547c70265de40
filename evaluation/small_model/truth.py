"""True scenes as the judge and the acceptance test need them: images, and what every patch of them shows."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from demo.drawing import draw, patch_owners
from demo.world import Scenes

from .judge import GRID, GROUND, SKY

CHUNK = 4096


def draw_scenes(scenes: Scenes, seed: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Images (N, 3, 64, 64) uint8, and the owner of every patch (N, 16, 16): whatever covers most of it."""
    images, owners = [], []
    for start in range(0, len(scenes), CHUNK):
        image, owner = draw(scenes[start : start + CHUNK], seed + start, device)
        images.append(image)
        owners.append(patch_owners(owner, GRID))
    return torch.cat(images), torch.cat(owners)


def patch_classes(scenes: Scenes, owners: Tensor) -> Tensor:
    """Owners of patches (N, 16, 16) → what the judge is to say of them: a noun's index, `GROUND` or `SKY`."""
    backdrop = torch.tensor([GROUND, SKY]).expand(len(scenes), -1)
    names = torch.cat([scenes.noun, backdrop], dim=1).to(owners.device)
    found = names.gather(1, rearrange(owners, "n h w -> n (h w)"))
    return rearrange(found, "n (h w) -> n h w", h=GRID)
