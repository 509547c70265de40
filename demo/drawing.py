"""From scenes to images and owner maps, on any device, drawn from signed distances with soft edges."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

from . import backdrops
from .things import NAMED, OUTLINE, PAINTS, parts
from .words import COLOURS, GROUNDS, NOUNS, SKIES
from .world import GROUND, SIZE, SKY, Scenes

TINTS = {
    "red": (0.86, 0.15, 0.15),
    "orange": (0.98, 0.55, 0.10),
    "yellow": (0.98, 0.86, 0.20),
    "green": (0.15, 0.62, 0.25),
    "blue": (0.15, 0.35, 0.88),
    "purple": (0.55, 0.20, 0.72),
    "pink": (0.98, 0.55, 0.75),
    "white": (0.95, 0.95, 0.95),
}
"""What the named colours look like, range 0…1."""

BACK_TO_FRONT = (2, 0, 1)
"""Slots in the order in which they are drawn: the sky's thing is behind those on the ground."""

OWNERS = 5


def draw(scenes: Scenes, seed: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Images (N, 3, 64, 64) and the owner of every pixel (N, 64, 64), both uint8; textures come from the seed.

    The same seed gives the same images on one kind of device.
    """
    rng = torch.Generator(device).manual_seed(seed)
    images, owners = _backdrop(scenes, rng, device)
    tints = torch.tensor([TINTS[name] for name in COLOURS], device=device)
    for slot in BACK_TO_FRONT:
        for index, noun in enumerate(NOUNS):
            rows = (scenes.present[:, slot] & (scenes.noun[:, slot] == index)).nonzero()[:, 0]
            if len(rows):
                named = tints[scenes.colour[rows, slot].to(device)] + scenes.shade[rows, slot].to(device)
                place = torch.stack([scenes.x, scenes.y, scenes.half])[:, rows, slot].to(device)
                rows = rows.to(device)
                images[rows], owned = _add(images[rows], noun, named, place)
                owners[rows] = torch.where(owned, slot, owners[rows])
    images = images + 0.006 * torch.randn(images.shape, generator=rng, device=device)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8), owners


def _backdrop(scenes: Scenes, rng: torch.Generator, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Sky and ground along a gently waved horizon: images 0…1 and owners."""
    horizon = scenes.horizon.to(device)
    sky, ground = torch.empty(2, len(scenes), 3, SIZE, SIZE, device=device)
    for kind in range(len(SKIES)):
        for images, chosen, painters, names in (
            (sky, scenes.sky, backdrops.SKIES, SKIES),
            (ground, scenes.ground, backdrops.GROUNDS, GROUNDS),
        ):
            rows = (chosen == kind).nonzero()[:, 0].to(device)
            if len(rows):
                images[rows] = painters[names[kind]](backdrops.Brush(horizon[rows], rng))
    ramp = torch.arange(SIZE, device=device) + 0.5
    level = rearrange(horizon, "n -> n 1 1")
    level = level + 0.8 * torch.sin(ramp * 0.12 + level * 37)
    below = (0.5 + ramp[:, None] - level).clamp(0, 1)
    owners = torch.where(below > 0.5, GROUND, SKY).to(torch.uint8)
    return torch.lerp(sky, ground, below[:, None]), owners


def _add(images: Tensor, noun: str, named: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one thing into images that all have it; also which pixels (n, 64, 64) are now its own.

    named  (n, 3): the colour that the caption says; place (3, n): x, y and half height in pixels.
    """
    ramp = torch.arange(SIZE, device=images.device) + 0.5
    x, y, half = rearrange(place, "value n -> value n 1 1")
    u, v = (ramp - x) / half, (ramp[:, None] - y) / half
    pieces = parts(noun, u, v)
    whole = torch.stack([distance for distance, _ in pieces]).amin(0) * half
    images = _paint(images, OUTLINE, whole - 0.9)
    light = (-0.07 * (u + v)).clamp(-0.12, 0.12)[:, None]
    for distance, paint in pieces:
        colour = named if paint == NAMED else PAINTS[paint]
        images = _paint(images, colour, distance * half, light)
    return images, whole < 0.4


def _paint(images: Tensor, colour: Tensor | tuple, distance: Tensor, light: Tensor | float = 0.0) -> Tensor:
    """Lay a colour (3,) or (n, 3) over the inside of a shape; `distance` in pixels."""
    colour = torch.as_tensor(colour, device=images.device)[..., None, None] + light
    return torch.lerp(images, colour.expand_as(images), (0.5 - distance).clamp(0, 1)[:, None])


def to_float(images: Tensor) -> Tensor:
    """uint8 images → float, range −1…1."""
    return images.float() / 127.5 - 1


def patch_owners(owners: Tensor, side: int) -> Tensor:
    """Who has most of each patch: owner maps (N, 64, 64) → (N, side, side) int64."""
    masks = torch.stack([owners == owner for owner in range(OWNERS)], dim=1).float()
    return reduce(masks, "n owner (h y) (w x) -> n owner h w", "mean", h=side, w=side).argmax(1)
