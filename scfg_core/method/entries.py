"""Several prompt entries in one image: combined prompts, areas, masks.

Every entry is segmented in its own area. With w = its host weight ÷ Σ host weights, per patch, every column is
divided by its w-weighted mean over the entry's support, then multiplied by w; the best (value, token) over the
entries owns the patch. One entry over the whole image has w = 1 everywhere: the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..errors import ShapeError
from ..grid import Grid, patch_mean
from ..prompt import Prompt
from .assign import renormalise
from .fusion import TokenMaps


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
    """The fused maps of one prompt entry, and where the host lets it act.

    tokens  maps on the entry's own grid, which covers `area`: one column per owner of the prompt, in order, where
            several STARTs are summed into the first; or [START, sum of all others].
    prompt  its tokens and labels.
    area    the part of the latent that the entry sees; None = all of it.
    weight  host weight ≥ 0 over the whole latent, (H, W) or (B, H, W); None = 1 inside the area.
    """

    tokens: TokenMaps
    prompt: Prompt
    area: Area | None = None
    weight: Tensor | None = None


@dataclass(frozen=True)
class PlacedEntry:
    """An entry on the common grid: maps (B, n, K) and its share (b, n, 1) of every patch; None = all of it."""

    tokens: TokenMaps
    share: Tensor | None
    prompt: Prompt

    def scores(self) -> Tensor:
        """Ĉ·w (B, n, K), comparable between entries."""
        if self.share is None:
            return self.tokens.scores()
        return renormalise(self.tokens.values, self.share) * self.share

    def support(self) -> Tensor:
        """(b, n) bool: patches in which the entry has a share."""
        if self.share is None:
            return torch.ones((1, 1), dtype=torch.bool, device=self.tokens.values.device)
        return self.share[..., 0] > 0

    def total(self) -> Tensor:
        """(B,) sum of an image's maps: finite where all of them are."""
        return self.tokens.values.sum(dim=(1, 2))


def place_entries(entries: Sequence[EntryMaps], latent: Grid, grid: Grid) -> list[PlacedEntry]:
    """Bring every entry to `grid`, and give it its share of every patch.

    Raises `ShapeError` for an area outside the latent, or maps on another grid than the other entries'.
    """
    for entry in entries:
        if entry.area is not None and not entry.area.inside(latent):
            raise ShapeError(
                f"expected an area inside the latent of {latent}, got {entry.area}: clip it to the latent"
            )
    alone = len(entries) < 2 and all(entry.area is None and entry.weight is None for entry in entries)
    shares = [None] * len(entries) if alone else _shares(entries, latent, grid)
    return [_place(entry, share, latent, grid) for entry, share in zip(entries, shares, strict=True)]


def common_grid(entries: Sequence[EntryMaps], latent: Grid) -> Grid:
    """Grid of the whole image: that of the first entry without an area, else the largest area's, continued."""
    for entry in entries:
        if entry.area is None:
            return entry.tokens.grid
    areas = [(entry.area, entry.tokens.grid) for entry in entries if entry.area is not None]
    area, grid = max(areas, key=lambda pair: pair[0].h * pair[0].w)
    return Grid(-(-latent.h * grid.h // area.h), -(-latent.w * grid.w // area.w))


def _place(entry: EntryMaps, share: Tensor | None, latent: Grid, grid: Grid) -> PlacedEntry:
    area, source, values = entry.area, entry.tokens.grid, entry.tokens.values
    if area is None:
        if source != grid:
            raise ShapeError(
                f"expected maps on the grid {grid} of the other entries, got {source}: "
                "pass the same layers for every entry, or the area that this one covers"
            )
        return PlacedEntry(entry.tokens, share, entry.prompt)
    rows = _patches_under(latent.h, grid.h, area.y, area.h, source.h, values.device)
    columns = _patches_under(latent.w, grid.w, area.x, area.w, source.w, values.device)
    values = values[:, rearrange(rows[:, None] * source.w + columns, "h w -> (h w)")]
    return PlacedEntry(TokenMaps(values, grid, entry.tokens.renormalised), share, entry.prompt)


def _patches_under(latent: int, grid: int, start: int, length: int, source: int, device: torch.device) -> Tensor:
    """Patch of the entry's axis that holds the centre of each patch of the common axis, clamped to the area."""
    centres = (2 * torch.arange(grid, device=device) + 1) * latent // (2 * grid)
    return (centres.clamp(start, start + length - 1) - start) * source // length


def _shares(entries: Sequence[EntryMaps], latent: Grid, grid: Grid) -> list[Tensor]:
    pooled = [rearrange(patch_mean(_weight(entry, latent), grid), "b h w -> b (h w) 1") for entry in entries]
    total = torch.stack(torch.broadcast_tensors(*pooled)).sum(dim=0)
    return [torch.where(total > 0, weight / total, torch.zeros_like(total)) for weight in pooled]


def _weight(entry: EntryMaps, latent: Grid) -> Tensor:
    """Host weight (b, H, W) of the entry over the whole latent."""
    values = entry.tokens.values
    if entry.weight is not None:
        batched, size = tuple(entry.weight.shape[:-2]), tuple(entry.weight.shape[-2:])
        if batched not in ((), (1,), (len(values),)) or size != (latent.h, latent.w):
            raise ShapeError(
                f"expected a weight (H, W) or (B, H, W) of {len(values)} images and {latent} latent cells, "
                f"got {tuple(entry.weight.shape)}: give the host's weight over the whole latent"
            )
        weight = entry.weight.to(values.device, values.dtype)
        return weight if weight.ndim == 3 else weight[None]
    area = entry.area or Area(0, 0, latent.h, latent.w)
    weight = values.new_zeros((1, latent.h, latent.w))
    weight[:, area.y : area.y + area.h, area.x : area.x + area.w] = 1
    return weight
