"""The spaces that S-CFG moves between: attention grid ↔ latent, and the two filters that act on them.

An attention layer sees the image as `Grid(h, w)` patches; the prediction lives on a latent of H×W.
A grid always comes from whoever ran the layer: a token count alone does not say whether 77 is 7×11 or 11×7.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .errors import ShapeError
from .precision import compute_dtype


@dataclass(frozen=True, order=True)
class Grid:
    """`h` rows by `w` columns of patches; patch (y, x) is token y·w + x.

    frames: how many images lie one below the other in the rows; smoothing, resizing and masks keep them apart.
    """

    h: int
    w: int
    frames: int = 1

    def __post_init__(self) -> None:
        if self.h < 1 or self.w < 1:
            raise ShapeError(f"expected a grid of at least 1×1 patches, got {self}: pass Grid(rows, columns)")
        if self.frames < 1 or self.h % self.frames:
            raise ShapeError(f"expected rows of {self.frames} whole frames, got {self.h}: pass frames × rows")

    @property
    def area(self) -> int:
        return self.h * self.w

    @property
    def frame(self) -> "Grid":
        """The grid of one frame."""
        return Grid(self.h // self.frames, self.w)

    def __str__(self) -> str:
        return f"{self.h}×{self.w}"


def nearest_index(source: int, target: int, device: torch.device | None = None) -> Tensor:
    """Cell of a `source`-long axis under each cell i of a `target`-long one: ⌊i·source/target⌋, in integers."""
    return torch.arange(target, device=device) * source // target


def nearest(cells: Tensor, target: Grid) -> Tensor:
    """Bring cells (…, h, w) of any dtype to (…, target.h, target.w) by `nearest_index`; no value is invented."""
    index = nearest_cells(tuple(cells.shape[-2:]), (target.h, target.w), cells.device)
    return cells.flatten(-2).index_select(-1, index).unflatten(-1, (target.h, target.w))


@lru_cache(maxsize=32)
def nearest_cells(source: tuple[int, ...], target: tuple[int, ...], device: torch.device) -> Tensor:
    """Cell of the source (h, w) under each cell of the target, (h·w,) int64; made once for sizes and device."""
    rows, columns = (nearest_index(*sides, device) for sides in zip(source, target, strict=True))
    return rearrange(rows[:, None] * source[1] + columns, "h w -> (h w)")


def patch_mean(values: Tensor, grid: Grid) -> Tensor:
    """(B, H, W) → (B, grid.h, grid.w): mean over the latent cells of each patch, in fp32 (fp64 for fp64 input)."""
    values = values[:, None].to(compute_dtype(values))
    whole = values.shape[-2] % grid.h == 0 and values.shape[-1] % grid.w == 0
    at = values if whole or values.device.type != "mps" else values.cpu()  # Metal pools whole cells only
    return F.adaptive_avg_pool2d(at, (grid.h, grid.w))[:, 0].to(values.device)


def bilinear(maps: Tensor, source: Grid, target: Grid) -> Tensor:
    """Bring token maps (b, source.area, t) to (b, target.area, t), bilinear, align_corners=False, by size.

    Frames, as many in both grids, are kept apart.
    """
    if source == target:
        return maps
    if target.frames > 1:
        apart = rearrange(maps, "b (f s) t -> (b f) s t", f=target.frames)
        return rearrange(bilinear(apart, source.frame, target.frame), "(b f) s t -> b (f s) t", f=target.frames)
    image = maps.mT.unflatten(2, (source.h, source.w))
    image = F.interpolate(image, size=(target.h, target.w), mode="bilinear", align_corners=False)
    return image.flatten(2).mT


def smooth_3x3(image: Tensor, frames: int = 1) -> Tensor:
    """Blur (b, c, frames·h, w) with weights ∝ exp(−(Δx² + Δy²)) on offsets −1, 0, 1, normalised; frames apart.

    Borders are reflected; an axis of length 1, which has nothing to reflect, is replicated.
    Relative to the authors' code: their Gaussian with σ = 0.5.
    """
    if frames > 1:
        image = rearrange(image, "b c (f h) w -> b (c f) h w", f=frames)
        return rearrange(smooth_3x3(image), "b (c f) h w -> b c (f h) w", f=frames)
    if min(image.shape[-2:]) > 1:
        padded = F.pad(image, (1, 1, 1, 1), mode="reflect")
    else:
        for padding, size in (((0, 0, 1, 1), image.shape[-2]), ((1, 1, 0, 0), image.shape[-1])):
            image = F.pad(image, padding, mode="reflect" if size > 1 else "replicate")
        padded = image
    for axis in (-2, -1):
        before, here, after = (padded.narrow(axis, offset, padded.shape[axis] - 2) for offset in range(3))
        padded = torch.lerp(here, torch.lerp(before, after, 0.5), _SIDES)
    return padded


_SIDES = 2 / (math.e + 2)
"""Weight of both neighbours together, e⁻¹ each beside 1, after normalisation."""


def smooth_token_maps(maps: Tensor, grid: Grid) -> Tensor:
    """`smooth_3x3` over token maps (b, grid.area, t)."""
    image = rearrange(maps, "b (h w) t -> b t h w", h=grid.h, w=grid.w)
    return rearrange(smooth_3x3(image, grid.frames), "b t h w -> b (h w) t")
