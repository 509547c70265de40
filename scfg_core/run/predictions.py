"""What a host knows of one evaluation: both predictions, and where its prompts act."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from einops import rearrange
from torch import Tensor

from ..grid import Grid
from ..method.entries import Area
from .noise import NoiseLevel

FOLD = "b c t h w -> b c (t h) w"
"""The frames of a video one below the other."""


@dataclass(frozen=True)
class Placement:
    """Where a prompt acts in the image, see `EntryMaps`; whether it is active at this evaluation at all."""

    prompt: Hashable
    area: Area | None = None
    weight: Tensor | None = None
    active: bool = True


def within_all(start: float, end: float) -> bool:
    """Every part of the schedule counts, where a host knows none."""
    return True


@dataclass(frozen=True)
class Predictions:
    """Both predictions of one evaluation.

    x, cond, uncond  (B, C, H, W) or, with frames, (B, C, T, H, W): what went into the model, and what it made of it
                     with either prompt.
    noise            the noise level, and what a prediction is.
    sigma            noise level in the host's unit, for the record.
    guidance_scale   γ.
    active           whether S-CFG acts in this part of the schedule.
    within           whether now is within a part of the schedule, from start to end, 0…1 each.
    """

    x: Tensor
    cond: Tensor
    uncond: Tensor
    noise: NoiseLevel
    sigma: Tensor | float
    guidance_scale: float
    active: bool = True
    within: Callable[[float, float], bool] = within_all

    @cached_property
    def delta(self) -> Tensor:
        return self.cond - self.uncond

    @property
    def latent(self) -> Grid:
        """Size of the latent, its frames one below the other."""
        return Grid(self.frames * self.cond.shape[-2], self.cond.shape[-1], self.frames)

    @property
    def frames(self) -> int:
        return self.cond.shape[2] if self.cond.ndim == 5 else 1

    def guided(self, ratio: Tensor | None) -> Tensor:
        """The guided prediction (B, C, H, W), for a preview: Eq. 12, or Eq. 7 where r is None."""
        delta = self.delta if ratio is None else self.delta * ratio
        return torch.add(self.uncond, delta, alpha=self.guidance_scale)

    def folded(self) -> "Predictions":
        """The same with the frames one below the other, (B, C, T·H, W)."""
        if self.cond.ndim == 4:
            return self
        signal, noise = (_fold(part) for part in (self.noise.signal, self.noise.noise))
        x, cond, uncond = (rearrange(part, FOLD) for part in (self.x, self.cond, self.uncond))
        return replace(self, x=x, cond=cond, uncond=uncond, noise=replace(self.noise, signal=signal, noise=noise))


def _fold(level: Tensor | float) -> Tensor | float:
    return rearrange(level, FOLD) if isinstance(level, Tensor) and level.ndim == 5 else level
