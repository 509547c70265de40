"""Masks from words: the patches that a set of labels owns (hard), or their share of every patch (soft)."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ..grid import Grid, bilinear, nearest
from ..method.assign import assign
from ..method.fusion import TokenMaps
from ..method.segment import UNOWNED


def hard_mask(labels: Tensor, wanted: Sequence[int], size: Grid) -> Tensor:
    """(B, size.h, size.w) fp32, 1 where the label map (B, h, w) has one of the `wanted` labels, else 0."""
    chosen = torch.isin(labels, torch.tensor(wanted, device=labels.device, dtype=labels.dtype))
    return nearest(chosen, size).float()


def soft_mask(scores: TokenMaps, wanted: Sequence[int], size: Grid) -> Tensor:
    """(B, size.h, size.w) fp32 in 0…1: Σ of the wanted tokens' Ĉ over Σ of all, brought to `size` bilinearly."""
    values = scores.values.float()
    total = values.sum(dim=-1, keepdim=True)
    part = values[..., list(wanted)].sum(dim=-1, keepdim=True)
    share = torch.where(total > 0, part / total, 0.0)
    return rearrange(bilinear(share, scores.grid, size), "b (h w) 1 -> b h w", h=size.h)


def stretch(mask: Tensor) -> Tensor:
    """(B, H, W) brought to the range from 0 to 1, image by image; a flat one becomes 0."""
    low, high = mask.amin(dim=(1, 2), keepdim=True), mask.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (mask - low) / (high - low), 0.0)


def labels_of_scores(scores: TokenMaps) -> Tensor:
    """(B, h, w) label map of summed scores: the token with the highest score in every patch; −1 where all are 0."""
    labels = torch.where(scores.values.amax(dim=-1) > 0, assign(scores.values), UNOWNED)
    return rearrange(labels, "b (h w) -> b h w", h=scores.grid.h)


def feather(mask: Tensor, radius: float) -> Tensor:
    """Blur (B, H, W) with a Gaussian of standard deviation `radius` / 2 pixels; borders are replicated."""
    if radius <= 0:
        return mask
    reach = max(1, round(radius))
    offsets = torch.arange(-reach, reach + 1, device=mask.device, dtype=mask.dtype)
    kernel = torch.exp(-2 * (offsets / radius) ** 2)
    kernel = kernel / kernel.sum()
    image = mask[:, None]
    image = torch.nn.functional.pad(image, (reach, reach, reach, reach), mode="replicate")
    image = torch.nn.functional.conv2d(image, kernel.view(1, 1, 1, -1))
    return torch.nn.functional.conv2d(image, kernel.view(1, 1, -1, 1))[:, 0]
