"""Eq. 13 and Eq. 12: every region guided as strongly as the benchmark.

    η = ‖ε(x, c) − ε(x, ∅)‖₂ over channels                                         `guidance_norm`
    r_i = γ_i / γ = mean_{m_b}(η) / mean_{m_i}(η)                                  `region_ratios` (Eq. 13)
    ε̂ = ε(x, ∅) + γ · r ⊙ (ε(x, c) − ε(x, ∅))                                     `combine`     (Eq. 12)

The ratio map r (B, 1, H, W) is all that a host needs: ε' = ε(x, ∅) + r ⊙ (ε(x, c) − ε(x, ∅)) replaces ε(x, c)
(`rescale`), and the host's own CFG (Eq. 7) does the rest. r is the same in ε, x0 and v terms. Nothing here waits
for
the device.
"""

import math
from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ShapeError
from ..grid import Grid, nearest, nearest_cells, smooth_3x3
from ..precision import compute_dtype, constant
from .segment import UNOWNED, Segmentation
from .settings import GUIDANCE_CEILING, Settings


def guidance_norm(delta: Tensor) -> Tensor:
    """η (B, H, W) ≥ 0: norm over channels of delta (B, C, H, W), in fp32 (fp64 for fp64 input)."""
    dtype = compute_dtype(delta)
    if delta.device.type == "cpu":  # where PyTorch's norm over a strided axis takes 80 times as long
        delta = delta.to(dtype)
        return torch.linalg.vecdot(delta, delta, dim=1).sqrt_()
    return torch.linalg.vector_norm(delta, dim=1, dtype=dtype)


def region_ratios(norm: Tensor, bins: Tensor, count: int) -> Tensor:
    """mean_{m_b}(η) / mean_{m_i}(η) of every region i (Eq. 13), (B, count) in fp64; 1 where a region's mean is 0.

    norm  η (B, H·W).
    bins  2·(i + 1) + m_b of every cell, (B, H·W) int64; below 2 where the cell takes no part in the means.

    The benchmark is m_b, or all cells where it is empty. O(cells): one `scatter_add_` of η and of the cells.
    """
    one = constant(1.0, norm.dtype, norm.device)
    values = norm.new_empty((2, *norm.shape), dtype=_sum_dtype(norm))
    torch.stack((norm, one.expand_as(norm)), out=values)
    sums = values.new_zeros((2, norm.shape[0], 2 * (count + 1)))
    sums.scatter_add_(2, bins.expand(2, -1, -1), values)
    parts = sums.unflatten(2, (count + 1, 2))[:, :, 1:]
    regions, benchmark = parts.sum(dim=-1), parts[..., 1].sum(dim=-1)
    total, cells = torch.where(benchmark[1:] > 0, benchmark, regions.sum(dim=-1)).unsqueeze(2).unbind()
    region_total, region_cells = regions.unbind()
    return (total / cells / (region_total / region_cells)).nan_to_num_(1.0, 1.0, 1.0)


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
    images = segmentation.labels.shape[0]
    if delta.ndim != 4 or delta.shape[0] != images:
        raise ShapeError(
            f"expected delta ({images}, C, H, W), got {tuple(delta.shape)}: "
            "pass the difference of the two predictions of the images that were segmented"
        )
    norm = guidance_norm(delta)
    factors = value_of_region(segmentation.labels, word_weights, 1.0, norm.dtype) if word_weights else None
    return ratio_of_norm(norm, segmentation, settings, guidance_scale, factors, frames)


def ratio_of_norm(
    norm: Tensor,
    segmentation: Segmentation,
    settings: Settings,
    guidance_scale: float,
    factors: Tensor | None = None,
    frames: int = 1,
) -> Tensor:
    """As `ratio_map`, from η (B, H, W) and the word weight (B, h, w) ≥ 0 of every patch, in η's dtype; None = 1."""
    if settings.strength == 0 or guidance_scale <= 0:
        return torch.ones_like(norm[:, None])
    codes, count = _codes(segmentation, settings)
    cells = norm.flatten(1)
    under = nearest_cells(codes.shape[1:], norm.shape[1:], norm.device)
    bins = codes.flatten(1).index_select(1, under).mul_(cells < constant(math.inf, norm.dtype, norm.device))
    ceiling = _ceiling(settings, guidance_scale)
    limit = ceiling if factors is None else math.inf
    ratios = region_ratios(cells, bins, count)
    ratios = ratios.clamp(min(settings.ratio_min, limit), min(settings.ratio_max, limit))
    table = F.pad(ratios.to(norm.dtype), (1, 0), value=1.0)
    regions = bins >> 1
    r = table.gather(1, regions).view(norm.shape[0], 1, *norm.shape[1:])
    if factors is not None or settings.smooth_ratio or settings.mean_preserving:
        valid = (regions > 0).view_as(r)
        if factors is not None:
            weighted = (r * nearest(factors, Grid(*norm.shape[1:]))[:, None]).clamp_(max=ceiling)
            r = torch.where(valid, weighted, r)
        if settings.smooth_ratio:
            r = torch.where(valid, smooth_3x3(r, frames), constant(1.0, r.dtype, r.device))
        if settings.mean_preserving:
            mean = _mean(r, valid)
            r = torch.where(valid & (mean > 0), r / mean, r)
    if settings.strength < 1:
        r = torch.lerp(torch.ones_like(r), r, settings.strength)
    return r


def value_of_region(
    regions: Tensor, values: Mapping[int, float], other: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(B, h, w) in `dtype`: the value of every patch's region, `other` where its region has none.

    regions  (B, h, w) integers from `UNOWNED` on: a label map, or another numbering of regions.
    """
    table = _table(tuple(sorted(values.items())), other, dtype, regions.device)
    return table[(regions.long() + 1).clamp_(max=len(table) - 1)]


@lru_cache(maxsize=64)
def _table(values: tuple[tuple[int, float], ...], other: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Row i + 1 is the value of region i, row 0 that of `UNOWNED`, the last one that of all higher regions."""
    highest = max((region for region, _ in values), default=UNOWNED)
    table = torch.full((highest + 3,), other, dtype=dtype, device=device)
    for region, value in values:  # one by one: a tensor of Python numbers would make a GPU wait
        table[region + 1] = value
    return table


def rescale(eps_cond: Tensor, eps_uncond: Tensor, ratio: Tensor) -> Tensor:
    """ε' = ε(x, ∅) + r ⊙ (ε(x, c) − ε(x, ∅)): takes the place of ε(x, c) in the host's own CFG. dtype of ε."""
    _check_predictions(eps_cond, eps_uncond, ratio)
    return eps_uncond + _scaled(eps_cond - eps_uncond, ratio)


def combine(eps_cond: Tensor, eps_uncond: Tensor, ratio: Tensor, guidance_scale: float) -> Tensor:
    """ε̂ of Eq. 12 (B, C, H, W), in the dtype of ε; with every ratio 1 it is CFG (Eq. 7), bit for bit."""
    _check_predictions(eps_cond, eps_uncond, ratio)
    return eps_uncond + guidance_scale * _scaled(eps_cond - eps_uncond, ratio)


def _codes(segmentation: Segmentation, settings: Settings) -> tuple[Tensor, int]:
    """2·(region + 1) + m_b of every patch, (B, h, w) int64, below 2 where it belongs to no prompt; and how many
    regions there are: one per token, or one per patch.
    """
    regions = segmentation.labels
    if settings.regions == "semantic":
        count = segmentation.count_labels()
    else:
        count = segmentation.grid.area
        patches = torch.arange(count, device=regions.device).view(regions.shape[1:])
        regions = torch.where(regions == UNOWNED, regions, patches)
    if settings.benchmark == "all":
        return 2 * regions + 3, count
    return torch.add(segmentation.foreground, regions, alpha=2).add_(2), count


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, 1, 1, 1) of values (B, 1, H, W) over mask; 0 where it is empty."""
    kept = torch.where(mask, values, 0.0).to(_sum_dtype(values))
    mean = kept.sum(dim=(1, 2, 3), keepdim=True) / mask.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    return mean.to(values.dtype)


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
