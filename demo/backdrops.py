"""Skies and grounds of the picture book: images (N, 3, 64, 64), range about 0…1, of scenes that share a kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .world import SIZE

RGB = tuple[float, float, float]


class Brush:
    """What every backdrop draws with: N horizons in pixels, a source of chance, and the pixels' coordinates.

    x, y, horizon broadcast to (N, 64, 64).
    """

    def __init__(self, horizon: Tensor, rng: torch.Generator) -> None:
        self.count, self.device, self._rng = len(horizon), horizon.device, rng
        self.horizon = rearrange(horizon, "n -> n 1 1")
        ramp = torch.arange(SIZE, device=horizon.device) + 0.5
        self.x, self.y = rearrange(ramp, "x -> 1 1 x"), rearrange(ramp, "y -> 1 y 1")

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.count, *shape, generator=self._rng, device=self.device)

    def scalar(self) -> Tensor:
        """One number 0…1 a scene, (N, 1, 1)."""
        return self.uniform(1, 1)

    def smooth(self, rows: int, columns: int) -> Tensor:
        """Noise of about unit size with so many bumps along each side: (N, 64, 64)."""
        coarse = torch.randn(self.count, 1, rows, columns, generator=self._rng, device=self.device)
        return F.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=False)[:, 0]

    def colour(self, rgb: RGB) -> Tensor:
        return rearrange(torch.tensor(rgb, device=self.device), "c -> 1 c 1 1")

    def gradient(self, along: Tensor, *stops: RGB) -> Tensor:
        """Colours at equal distances, blended: `along` 0…1, broadcastable to (N, 64, 64)."""
        place = along[:, None] * (len(stops) - 1)
        image = self.colour(stops[0])
        for index, stop in enumerate(stops[1:]):
            image = torch.lerp(image, self.colour(stop), (place - index).clamp(0, 1))
        return image.expand(self.count, 3, SIZE, SIZE)


def noon(brush: Brush) -> Tensor:
    """Blue, with two white clouds that are flat below."""
    image = brush.gradient(_height(brush), (0.35, 0.62, 0.93), (0.72, 0.88, 0.99))
    for _ in range(2):
        x, y = brush.x - brush.scalar() * 64, brush.y - (5 + brush.scalar() * 18)
        size = 3.5 + 3 * brush.scalar()
        puffs = [
            torch.hypot(x, y) - size,
            torch.hypot(x - 1.3 * size, y - 0.3 * size) - 0.75 * size,
            torch.hypot(x + 1.3 * size, y - 0.3 * size) - 0.7 * size,
        ]
        cloud = torch.maximum(torch.stack(puffs).amin(0), y - 0.75 * size)
        image = torch.lerp(image, brush.colour((1.0, 1.0, 1.0)), 0.9 * _inside(cloud))
    return image


def sunset(brush: Brush) -> Tensor:
    """Purple over red to yellow, with the sun on the horizon."""
    image = brush.gradient(_height(brush), (0.42, 0.25, 0.55), (0.90, 0.42, 0.42), (0.99, 0.75, 0.38))
    x, size = 8 + brush.scalar() * 48, 6 + 3 * brush.scalar()
    sun = torch.hypot(brush.x - x, brush.y - brush.horizon + 2) - size
    image = torch.lerp(image, brush.colour((1.0, 0.93, 0.62)), _inside(sun))
    return image + 0.03 * brush.smooth(10, 2)[:, None]


def night(brush: Brush) -> Tensor:
    """Dark blue, with single pixels for stars."""
    image = brush.gradient(_height(brush), (0.03, 0.04, 0.16), (0.10, 0.12, 0.32))
    stars = brush.uniform(SIZE, SIZE) > 0.982
    return image + stars[:, None] * (0.45 + 0.5 * brush.uniform(1, SIZE, SIZE))


def rain(brush: Brush) -> Tensor:
    """Grey, with slanting streaks along some of 320 lanes."""
    image = brush.gradient(_height(brush), (0.36, 0.39, 0.45), (0.60, 0.63, 0.68))
    lane = torch.floor(brush.x - 0.35 * brush.y + 200).long().expand(brush.count, SIZE, SIZE)
    phase, chance = brush.uniform(320), brush.uniform(320)
    scene = torch.arange(brush.count, device=brush.device)[:, None, None]
    along = (brush.y / 9 + phase[scene, lane] * 7) % 1
    streaks = (along < 0.55) & (chance[scene, lane] > 0.72)
    return image + 0.15 * streaks[:, None]


def grass(brush: Brush) -> Tensor:
    """Green, with upright blades."""
    image = brush.gradient(_depth(brush), (0.40, 0.66, 0.28), (0.22, 0.48, 0.16))
    return image + 0.07 * brush.smooth(16, 64)[:, None]


def sand(brush: Brush) -> Tensor:
    """Yellow, with ripples."""
    image = brush.gradient(_depth(brush), (0.93, 0.82, 0.58), (0.82, 0.66, 0.40))
    bent = brush.y + 2.2 * brush.smooth(3, 5)
    ripples = torch.sin(bent * (1.15 + 0.3 * brush.scalar()) + 6.28 * brush.scalar())
    return image + 0.05 * ripples[:, None]


def snow(brush: Brush) -> Tensor:
    """Nearly white, with bluish hollows."""
    image = brush.gradient(_depth(brush), (0.90, 0.93, 0.98), (0.97, 0.98, 1.0))
    hollows = brush.smooth(5, 4) > 0.4
    return image - 0.07 * hollows[:, None] * brush.colour((1.3, 1.0, 0.55))


def water(brush: Brush) -> Tensor:
    """Blue, with the crests of waves."""
    image = brush.gradient(_depth(brush), (0.30, 0.56, 0.80), (0.10, 0.28, 0.58))
    swell = torch.sin(brush.x * (0.25 + 0.2 * brush.scalar()) + 6.28 * brush.scalar())
    crests = torch.sin(brush.y * 1.6 + 1.3 * swell + 6.28 * brush.scalar()) > 0.72
    return image + 0.16 * crests[:, None]


Backdrop = Callable[[Brush], Tensor]
SKIES: dict[str, Backdrop] = {each.__name__: each for each in (noon, sunset, night, rain)}
GROUNDS: dict[str, Backdrop] = {each.__name__: each for each in (grass, sand, snow, water)}


def _height(brush: Brush) -> Tensor:
    """0 at the top of the image, 1 at the horizon."""
    return (brush.y / brush.horizon).clamp(0, 1)


def _depth(brush: Brush) -> Tensor:
    """0 at the horizon, 1 at the bottom of the image."""
    return ((brush.y - brush.horizon) / (SIZE - brush.horizon)).clamp(0, 1)


def _inside(distance: Tensor) -> Tensor:
    """Coverage of each pixel, (N, 1, 64, 64), from signed distances in pixels."""
    return (0.5 - distance).clamp(0, 1)[:, None]
