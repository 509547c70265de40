"""What masks from words are made with: a share of every patch (soft), small parts dropped, softened borders.

Hard masks are regions of words or phrases (`regions.word_mask`).
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ..grid import Grid, bilinear
from ..method.assign import assign
from ..method.fusion import TokenMaps
from ..method.segment import UNOWNED


def soft_mask(scores: TokenMaps, wanted: Sequence[int], size: Grid) -> Tensor:
    """(B, size.h, size.w) fp32 in 0…1: Σ of the wanted tokens' Ĉ over Σ of all, brought to `size` bilinearly.

    Frames, as many in `size` as in the scores, are kept apart.
    """
    values = scores.values.float()
    total = values.sum(dim=-1, keepdim=True)
    part = values[..., list(wanted)].sum(dim=-1, keepdim=True)
    share = torch.where(total > 0, part / total, 0.0)
    return rearrange(bilinear(share, scores.grid, size), "b (h w) 1 -> b h w", h=size.h)


def stretch(mask: Tensor) -> Tensor:
    """(B, H, W) brought to the range from 0 to 1, image by image; a flat one becomes 0."""
    low, high = mask.amin(dim=(1, 2), keepdim=True), mask.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (mask - low) / (high - low), 0.0)


def drop_small_parts(mask: Tensor, share: float, frames: int = 1) -> Tensor:
    """The mask (B, h, w) bool without parts, then holes, of fewer than `share`·h·w patches that touch by an edge.

    The largest part of an image always stays, and so does the largest of what is left. No wait for the device.
    Of several frames, one below the other in the rows h, each is an image.
    """
    if frames > 1:
        apart = rearrange(mask, "b (f h) w -> (b f) h w", f=frames)
        return rearrange(drop_small_parts(apart, share), "(b f) h w -> b (f h) w", f=frames)
    return ~_without_small(~_without_small(mask, share), share)


def _without_small(mask: Tensor, share: float) -> Tensor:
    root = _components(mask).flatten(1)
    cells = mask.flatten(1)
    sizes = torch.zeros_like(root).scatter_add_(1, root, cells.to(root.dtype))
    kept = sizes >= sizes.amax(dim=1, keepdim=True).clamp(max=math.ceil(share * cells.shape[1]))
    return (kept.gather(1, root) & cells).view_as(mask)


def _components(mask: Tensor) -> Tensor:
    """(B, h, w) int64: the highest cell (y·w + x) of the connected part of the mask that each of its cells is in.

    FastSV (Zhang, Azad, Buluç 2020): every root takes the highest root that touches its part, and paths are halved,
    so that log₂ of the number of cells suffices.
    """
    images, h, w = mask.shape
    root = torch.arange(h * w, device=mask.device).expand(images, -1)
    touching = [mask.narrow(axis, 1, size - 1) & mask.narrow(axis, 0, size - 1) for axis, size in ((1, h), (2, w))]
    for _ in range((h * w).bit_length() + 1):
        highest = root.view(images, h, w).clone()
        for axis, pairs in enumerate(touching, start=1):
            first, second = (highest.narrow(axis, offset, pairs.shape[axis]) for offset in (0, 1))
            highest_of_pair = torch.where(pairs, torch.maximum(first, second), 0)
            first.copy_(torch.maximum(first, highest_of_pair))
            second.copy_(torch.maximum(second, highest_of_pair))
        found = highest.flatten(1)
        found = found.scatter_reduce(1, root, found, "amax")
        root = found.gather(1, found)
    return root.view(images, h, w)


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
