"""Eq. 13 and Eq. 12: every region guided as strongly as the benchmark.

    η = ‖ε(x, c) − ε(x, ∅)‖₂ over channels                                         `guidance_norm`
    r_i = γ_i / γ = mean_{m_b}(η) / mean_{m_i}(η)                                  `ratio`       (Eq. 13)
    ε̂ = ε(x, ∅) + γ · r ⊙ (ε(x, c) − ε(x, ∅))                                     `combine`     (Eq. 12)

The ratio map r (B, 1, H, W) is all that a host needs: ε' = ε(x, ∅) + r ⊙ (ε(x, c) − ε(x, ∅)) replaces ε(x, c)
(`rescale`), and the host's own CFG (Eq. 7) does the rest. r is the same in ε, x0 and v terms. Nothing here waits
for
the device.
"""

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from ..errors import ShapeError
from ..grid import Grid, nearest, smooth_3x3
from ..precision import compute_dtype
from .segment import UNOWNED, Segmentation
from .settings import GUIDANCE_CEILING, Settings


def guidance_norm(delta: Tensor) -> Tensor:
    """η (B, H, W) ≥ 0: norm over channels of delta (B, C, H, W), in fp32 (fp64 for fp64 input)."""
    return torch.linalg.vector_norm(delta.to(compute_dtype(delta)), dim=1)


def ratio(norm: Tensor, regions: Tensor, count: int, benchmark: Tensor, valid: Tensor) -> Tensor:
    """mean_{m_b}(η) / mean_{m_i}(η) at every cell, i the cell's region (Eq. 13); 1 where a region's mean is 0.

    norm       η (B, H, W).
    regions    region of every cell, (B, H, W) int64, 0 … count − 1.
    benchmark  m_b (B, H, W) bool.
    valid      (B, H, W) bool: cells that take part in the means.
    """
    means = region_means(norm, regions, count, valid)
    return torch.where(means > 0, masked_mean(norm, benchmark & valid) / means, 1.0)


def region_means(values: Tensor, regions: Tensor, count: int, valid: Tensor) -> Tensor:
    """Mean of values (B, H, W) over each cell's region, at every cell; 0 where nothing is valid. O(cells)."""
    bins = torch.where(valid, regions, count).flatten(1)
    flat = torch.where(valid, values, 0.0).flatten(1).to(_sum_dtype(values))
    sums = flat.new_zeros((values.shape[0], count + 1)).scatter_add_(1, bins, flat)
    sizes = torch.zeros_like(sums).scatter_add_(1, bins, torch.ones_like(flat))
    means = (sums / sizes.clamp(min=1)).gather(1, bins)
    return means.view_as(values).to(values.dtype)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, 1, 1) of values (B, H, W) over mask; 0 where it is empty."""
    kept = torch.where(mask, values, 0.0).to(_sum_dtype(values))
    mean = kept.sum(dim=(1, 2), keepdim=True) / mask.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return mean.to(values.dtype)


def ratio_map(
    delta: Tensor,
    segmentation: Segmentation,
    settings: Settings,
    guidance_scale: float,
    word_weights: Mapping[int, float] | None = None,
    frames: int = 1,
) -> Tensor:
    """r = γ_i/γ at every cell (Eq. 13): (B, 1, H, W) in fp32 (fp64 for fp64 input).

    delta           ε(x, c) − ε(x, ∅), (B, C, H, W), any H, W; the difference of x0 or v predictions serves as well.
    segmentation    of the same B images.
    guidance_scale  γ of this evaluation; γ ≤ 0 gives ones.
    word_weights    label → factor ≥ 0 on its region's ratio, applied after the clamp.
    frames          how many images lie one below the other in the rows H; each is smoothed apart.

    In order: means → clamp → word weights → cap → smoothing → mean-preserving → strength. A cell that belongs to
    no prompt or whose η is not finite leaves all means and has r = 1; a region whose mean is 0 has r = 1. An image
    without foreground takes every patch as its benchmark. Raises `ShapeError` where delta does not fit.
    """
    images = len(segmentation.labels)
    if delta.ndim != 4 or len(delta) != images:
        raise ShapeError(
            f"expected delta ({images}, C, H, W), got {tuple(delta.shape)}: "
            "pass the difference of the two predictions of the images that were segmented"
        )
    norm = guidance_norm(delta)
    if settings.strength == 0 or guidance_scale <= 0:
        return torch.ones_like(norm[:, None])
    labels = nearest(segmentation.labels, Grid(delta.shape[2], delta.shape[3]))
    valid = (labels != UNOWNED) & torch.isfinite(norm)
    regions, count = _regions(labels, segmentation, settings)
    r = ratio(norm, regions, count, _benchmark(valid, segmentation, settings), valid)
    r = r.clamp(settings.ratio_min, settings.ratio_max)
    for label, weight in (word_weights or {}).items():
        r = torch.where(labels == label, r * weight, r)
    r = r.clamp(max=_ceiling(settings, guidance_scale))
    r = torch.where(valid, r, 1.0)
    if settings.smooth_ratio:
        r = smooth_3x3(r[:, None], frames)[:, 0]
    if settings.mean_preserving:
        mean = masked_mean(r, valid)
        r = torch.where(mean > 0, r / mean, r)
    r = torch.where(valid, r, 1.0)
    return torch.lerp(torch.ones_like(r), r, settings.strength)[:, None]


def rescale(eps_cond: Tensor, eps_uncond: Tensor, ratio: Tensor) -> Tensor:
    """ε' = ε(x, ∅) + r ⊙ (ε(x, c) − ε(x, ∅)): takes the place of ε(x, c) in the host's own CFG. dtype of ε."""
    _check_predictions(eps_cond, eps_uncond, ratio)
    return eps_uncond + _scaled(eps_cond - eps_uncond, ratio)


def combine(eps_cond: Tensor, eps_uncond: Tensor, ratio: Tensor, guidance_scale: float) -> Tensor:
    """ε̂ of Eq. 12 (B, C, H, W), in the dtype of ε; with every ratio 1 it is CFG (Eq. 7), bit for bit."""
    _check_predictions(eps_cond, eps_uncond, ratio)
    return eps_uncond + guidance_scale * _scaled(eps_cond - eps_uncond, ratio)


def _regions(labels: Tensor, segmentation: Segmentation, settings: Settings) -> tuple[Tensor, int]:
    """Region of every latent cell (B, H, W), and how many there are: one per token, or one per patch."""
    if settings.regions == "semantic":
        return labels, segmentation.count_labels()
    patches = torch.arange(segmentation.grid.area, device=labels.device)
    patches = rearrange(patches, "(h w) -> 1 h w", h=segmentation.grid.h)
    return nearest(patches, Grid(labels.shape[1], labels.shape[2])).expand_as(labels), segmentation.grid.area


def _benchmark(valid: Tensor, segmentation: Segmentation, settings: Settings) -> Tensor:
    """m_b (B, H, W): the foreground; the whole image where that is asked for, or where there is no foreground."""
    if settings.benchmark == "all":
        return valid
    foreground = valid & nearest(segmentation.foreground, Grid(valid.shape[1], valid.shape[2]))
    empty = ~foreground.flatten(1).any(dim=1)
    return torch.where(empty[:, None, None], valid, foreground)


def _ceiling(settings: Settings, guidance_scale: float) -> float:
    limit = GUIDANCE_CEILING / guidance_scale
    return {"none": math.inf, "hard": limit, "soft": max(1.0, limit)}[settings.cap]


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    """Sums over many cells are kept in fp64 where all such devices have it: not on Arc, DirectML, Metal."""
    return torch.float64 if tensor.device.type in ("cpu", "cuda", "meta") else tensor.dtype


def _scaled(delta: Tensor, ratio: Tensor) -> Tensor:
    return (delta.to(ratio.dtype) * ratio).to(delta.dtype)


def _check_predictions(eps_cond: Tensor, eps_uncond: Tensor, ratio: Tensor) -> None:
    shape = tuple(eps_cond.shape)
    if tuple(eps_uncond.shape) != shape or tuple(ratio.shape) != (shape[0], 1, *shape[2:]):
        raise ShapeError(
            f"expected two predictions of {shape} and one ratio per cell, got {tuple(eps_uncond.shape)} and "
            f"{tuple(ratio.shape)}: pass the two predictions of one evaluation and their ratio map (B, 1, H, W)"
        )
