"""Several prompt entries in one picture: combined prompts, areas, masks.

Each entry is segmented in its own area. With w = its host weight ÷ Σ host weights, per patch, every column is
divided by its w-weighted mean over the entry's support, then multiplied by w; the best (value, token) over the
entries owns the patch. One entry over the whole picture has w = 1 everywhere: the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor

from .errors import ShapeError, expect
from .fusion import TokenMaps, renormalise
from .grid import Grid, patch_mean

CHUNK = 77
"""Tokens of one prompt chunk of the CLIP text encoders, each with a START of its own."""


def chunk_starts(num_tokens: int) -> tuple[int, ...]:
    """Positions of START where nobody tells: every 77th token where 77 divides the length, else the first."""
    return tuple(range(0, num_tokens, CHUNK)) if num_tokens % CHUNK == 0 else (0,)


@dataclass(frozen=True)
class Area:
    """Rows y to y + h and columns x to x + w of the latent, in cells."""

    y: int
    x: int
    h: int
    w: int

    def inside(self, latent: Grid) -> bool:
        """Whether it is not empty and lies within the latent."""
        rows = 0 <= self.y < self.y + self.h <= latent.h
        return rows and 0 <= self.x < self.x + self.w <= latent.w


@dataclass(frozen=True)
class EntryMaps:
    """The fused maps of one prompt entry, and where the host lets it speak.

    tokens        maps on the entry's own grid, which covers `area`; several STARTs are summed into the first.
    start_tokens  indices of START, one per chunk of the prompt; empty = none.
    area          the part of the latent that the entry sees; None = all of it.
    weight        host weight ≥ 0 over the whole latent, (H, W) or (B, H, W); None = 1 inside the area.
    first_label   label of its first token; None = after those of the entries before it.
    """

    tokens: TokenMaps
    start_tokens: tuple[int, ...] = (0,)
    area: Area | None = None
    weight: Tensor | None = None
    first_label: int | None = None


@dataclass(frozen=True)
class PlacedEntry:
    """An entry on the common grid: maps (B, n, K) and its share (b, n, 1) of every patch; None = all of it."""

    maps: Tensor
    renormalised: bool
    share: Tensor | None
    start_tokens: tuple[int, ...]
    first_label: int | None = None

    def competing(self) -> Tensor:
        """Ĉ·w (B, n, K), comparable between entries."""
        if self.share is not None:
            return renormalise(self.maps, self.share) * self.share
        return self.maps if self.renormalised else renormalise(self.maps)

    def supported(self) -> Tensor:
        """(b, n) bool: patches in which the entry has a share."""
        if self.share is None:
            return torch.ones((1, 1), dtype=torch.bool, device=self.maps.device)
        return self.share[..., 0] > 0

    def finite(self) -> Tensor:
        """(B,) bool: images whose maps are finite."""
        return reduce(torch.isfinite(self.maps), "b n k -> b", torch.all)


def place_entries(entries: Sequence[EntryMaps], latent: Grid, grid: Grid) -> list[PlacedEntry]:
    """Bring every entry to `grid`, and give each its share of every patch."""
    for entry in entries:
        inside = entry.area is None or entry.area.inside(latent)
        expect(inside, ShapeError, f"an area inside the latent of {latent}", entry.area, "clip it to the latent")
    alone = len(entries) == 1 and entries[0].area is None and entries[0].weight is None
    shares = [None] if alone else _shares(entries, latent, grid)
    return [_place(entry, share, latent, grid) for entry, share in zip(entries, shares, strict=True)]


def common_grid(entries: Sequence[EntryMaps], latent: Grid) -> Grid:
    """Grid of the whole picture: that of the first entry without area, else the largest area's, continued."""
    for entry in entries:
        if entry.area is None:
            return entry.tokens.grid
    areas = [(entry.area, entry.tokens.grid) for entry in entries if entry.area is not None]
    area, grid = max(areas, key=lambda pair: pair[0].h * pair[0].w)
    return Grid(-(-latent.h * grid.h // area.h), -(-latent.w * grid.w // area.w))


def _place(entry: EntryMaps, share: Tensor | None, latent: Grid, grid: Grid) -> PlacedEntry:
    own = entry.tokens.grid
    expect(
        entry.area is not None or own == grid,
        ShapeError,
        f"maps on the grid {grid} of the other entries",
        own,
        "pass the same layers for every entry, or the area that this one covers",
    )
    values = entry.tokens.values
    if entry.area is not None:
        rows = _patches_under(latent.h, grid.h, entry.area.y, entry.area.h, own.h, values.device)
        columns = _patches_under(latent.w, grid.w, entry.area.x, entry.area.w, own.w, values.device)
        values = values[:, rearrange(rows[:, None] * own.w + columns, "h w -> (h w)")]
    return PlacedEntry(values, entry.tokens.renormalised, share, entry.start_tokens, entry.first_label)


def _patches_under(latent: int, grid: int, start: int, length: int, own: int, device: torch.device) -> Tensor:
    """Patch of the entry's own axis that holds the centre of each patch of the common axis, clamped to the area."""
    centres = (2 * torch.arange(grid, device=device) + 1) * latent // (2 * grid)
    return (centres.clamp(start, start + length - 1) - start) * own // length


def _shares(entries: Sequence[EntryMaps], latent: Grid, grid: Grid) -> list[Tensor]:
    pooled = [rearrange(patch_mean(_weight(entry, latent), grid), "b h w -> b (h w) 1") for entry in entries]
    total = torch.stack(torch.broadcast_tensors(*pooled)).sum(dim=0)
    return [torch.where(total > 0, weight / total, torch.zeros_like(total)) for weight in pooled]


def _weight(entry: EntryMaps, latent: Grid) -> Tensor:
    """Host weight (b, H, W) of the entry over the whole latent."""
    values = entry.tokens.values
    if entry.weight is not None:
        expect(
            tuple(entry.weight.shape[:-2]) in ((), (1,), (len(values),))
            and tuple(entry.weight.shape[-2:]) == (latent.h, latent.w),
            ShapeError,
            f"a weight (H, W) or (B, H, W) of {len(values)} images and {latent} latent cells",
            tuple(entry.weight.shape),
            "give the host's weight over the whole latent",
        )
        weight = entry.weight.to(values.device, values.dtype)
        return weight if weight.ndim == 3 else weight[None]
    area = entry.area or Area(0, 0, latent.h, latent.w)
    weight = values.new_zeros((1, latent.h, latent.w))
    weight[:, area.y : area.y + area.h, area.x : area.x + area.w] = 1
    return weight
