"""Eq. 13 and Eq. 12: every region guided as strongly as the benchmark, and the guidance formula.

    η = ‖ε(x, c) − ε(x, ∅)‖₂ over channels
    r_i = γ_i / γ = mean_{m_b}(η) / mean_{m_i}(η)                                  (Eq. 13)
    ε̂ = ε(x, ∅) + γ · r ⊙ (ε(x, c) − ε(x, ∅))                                     (Eq. 12)

The ratio map r (B, 1, H, W) is all that a host needs: ε' = ε(x, ∅) + r ⊙ (ε(x, c) − ε(x, ∅)) replaces ε(x, c),
and the host's own CFG (Eq. 7) does the rest. r is the same in ε, x0 and v terms. Nothing here waits for the device.
"""

import math
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from .errors import ShapeError, expect
from .grid import Grid, nearest, smooth_3x3
from .precision import compute_dtype
from .segmentation import UNOWNED, Segmentation
from .settings import GUIDANCE_CEILING, Settings


def guidance_norm(delta: Tensor) -> Tensor:
    """η (B, H, W) ≥ 0: norm over channels of delta (B, C, H, W), in fp32 (fp64 for fp64 input)."""
    return torch.linalg.vector_norm(delta.to(compute_dtype(delta)), dim=1)


def ratio_map(
    delta: Tensor,
    segmentation: Segmentation,
    settings: Settings,
    guidance_scale: float,
    word_weights: Mapping[int, float] | None = None,
) -> Tensor:
    """r = γ_i/γ at every place (Eq. 13): (B, 1, H, W) in fp32 (fp64 for fp64 input).

    delta           ε(x, c) − ε(x, ∅), (B, C, H, W), any H, W; the difference of x0 or v predictions serves as well.
    segmentation    of the same B images.
    guidance_scale  γ of this evaluation; γ ≤ 0 gives ones.
    word_weights    label → factor ≥ 0 on its region's ratio, applied after the clamp.

    In order: means → clamp → word weights → cap → smoothing → mean-preserving → strength. A place that belongs to
    no prompt or whose η is not finite leaves all means and has r = 1; a region whose mean is 0 has r = 1. An image
    without foreground takes every patch as its benchmark. Raises `ShapeError` where delta does not fit.
    """
    expect(
        delta.ndim == 4 and delta.shape[0] == segmentation.labels.shape[0],
        ShapeError,
        f"delta ({segmentation.labels.shape[0]}, C, H, W)",
        tuple(delta.shape),
        "pass the difference of the two predictions of the images that were segmented",
    )
    norm = guidance_norm(delta)
    if settings.strength == 0 or guidance_scale <= 0:
        return torch.ones_like(norm[:, None])
    latent = Grid(delta.shape[2], delta.shape[3])
    labels = nearest(segmentation.labels, latent)
    valid = (labels != UNOWNED) & torch.isfinite(norm)
    ratio = _region_ratio(norm, labels, valid, segmentation, settings)
    ratio = ratio.clamp(settings.ratio_min, settings.ratio_max)
    for label, weight in (word_weights or {}).items():
        ratio = torch.where(labels == label, ratio * weight, ratio)
    ratio = ratio.clamp(max=_ceiling(settings, guidance_scale))
    ratio = torch.where(valid, ratio, 1.0)
    if settings.smooth_ratio:
        ratio = smooth_3x3(ratio[:, None])[:, 0]
    if settings.mean_preserving:
        mean = _masked_mean(ratio, valid)
        ratio = torch.where(mean > 0, ratio / mean, ratio)
    ratio = torch.where(valid, ratio, 1.0)
    return torch.lerp(torch.ones_like(ratio), ratio, settings.strength)[:, None]


def rescale(eps_cond: Tensor, eps_uncond: Tensor, ratio: Tensor) -> Tensor:
    """ε' = ε(x, ∅) + r ⊙ (ε(x, c) − ε(x, ∅)): takes the place of ε(x, c) in the host's own CFG. dtype of ε."""
    _check_predictions(eps_cond, eps_uncond, ratio)
    return eps_uncond + _scaled(eps_cond - eps_uncond, ratio)


def combine(eps_cond: Tensor, eps_uncond: Tensor, ratio: Tensor, guidance_scale: float) -> Tensor:
    """ε̂ of Eq. 12 (B, C, H, W), in the dtype of ε; with every ratio 1 it is CFG (Eq. 7), bit for bit."""
    _check_predictions(eps_cond, eps_uncond, ratio)
    return eps_uncond + guidance_scale * _scaled(eps_cond - eps_uncond, ratio)


def std_correction(
    eps_cond: Tensor, changed: Tensor, eps_uncond: Tensor, guidance_scale: float, share: float
) -> Tensor:
    """What keeps a host's own std matching (arXiv 2305.08891, §3.4) right where ε' has taken the place of ε(x, c).

        f = (φ·std(ε_c)/s + 1 − φ) / (φ·std(ε')/s + 1 − φ),   s = std(ε_u + γ·(ε' − ε_u))

    A host that is given f·ε_u and f·ε' combines them to f·ε̂ and multiplies this by φ·std(f·ε')/std(f·ε̂) + 1 − φ,
    in which f cancels: what comes out is ε̂·(φ·std(ε_c)/s + 1 − φ), with the std of the model's own ε(x, c).

    eps_cond, changed, eps_uncond  ε_c, ε' and ε_u (B, C, H, W).
    guidance_scale                 γ; share: φ = the host's `guidance_rescale`, 0…1.

    Returns f (B, 1, 1, 1) in fp32 (fp64 for fp64 input); 1 where φ is 0 or the guided prediction is constant.
    """
    dtype = compute_dtype(eps_cond)

    def std(tensor: Tensor) -> Tensor:
        return tensor.to(dtype).std(dim=(1, 2, 3), keepdim=True)

    guided = std(eps_uncond + guidance_scale * (changed - eps_uncond))
    wanted, found = (share * std(eps) + (1 - share) * guided for eps in (eps_cond, changed))
    return torch.where((guided > 0) & (found > 0), wanted / found, 1.0)


def _check_predictions(eps_cond: Tensor, eps_uncond: Tensor, ratio: Tensor) -> None:
    shape = tuple(eps_cond.shape)
    remedy = "pass the two predictions of one evaluation and their ratio map (B, 1, H, W)"
    expect(tuple(eps_uncond.shape) == shape, ShapeError, f"two predictions of {shape}", eps_uncond.shape, remedy)
    expect(tuple(ratio.shape) == (shape[0], 1, *shape[2:]), ShapeError, "one ratio per place", ratio.shape, remedy)


def _scaled(delta: Tensor, ratio: Tensor) -> Tensor:
    return (delta.to(ratio.dtype) * ratio).to(delta.dtype)


def _ceiling(settings: Settings, guidance_scale: float) -> float:
    limit = GUIDANCE_CEILING / guidance_scale
    return {"none": math.inf, "hard": limit, "soft": max(1.0, limit)}[settings.cap]


def _region_ratio(
    norm: Tensor, labels: Tensor, valid: Tensor, segmentation: Segmentation, settings: Settings
) -> Tensor:
    """mean_{m_b}(η) / mean_{m_i}(η) at every place (B, H, W), before any limit."""
    latent = Grid(norm.shape[1], norm.shape[2])
    if settings.regions == "patch":
        patches = torch.arange(segmentation.grid.area, device=norm.device)
        patches = rearrange(patches, "(h w) -> 1 h w", h=segmentation.grid.h)
        regions, count = nearest(patches, latent).expand_as(labels), segmentation.grid.area
    else:
        regions, count = labels, segmentation.count_labels()
    means = _region_means(norm, regions, valid, count)
    benchmark = valid
    if settings.benchmark == "foreground":
        foreground = valid & nearest(segmentation.foreground, latent)
        empty = ~foreground.flatten(1).any(dim=1)
        benchmark = torch.where(empty[:, None, None], valid, foreground)
    return torch.where(means > 0, _masked_mean(norm, benchmark) / means, 1.0)


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    """Sums over many places are kept in fp64 where all such devices have it: not on Arc, DirectML, Metal."""
    return torch.float64 if tensor.device.type in ("cpu", "cuda", "meta") else tensor.dtype


def _region_means(values: Tensor, regions: Tensor, valid: Tensor, count: int) -> Tensor:
    """Mean of values (B, H, W) over each place's own region, at every place; 0 where nothing is valid."""
    bins = torch.where(valid, regions, count).flatten(1)
    flat = torch.where(valid, values, 0.0).flatten(1).to(_sum_dtype(values))
    sums = flat.new_zeros((values.shape[0], count + 1)).scatter_add_(1, bins, flat)
    sizes = torch.zeros_like(sums).scatter_add_(1, bins, torch.ones_like(flat))
    means = (sums / sizes.clamp(min=1)).gather(1, bins)
    return means.view_as(values).to(values.dtype)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, 1, 1) of values (B, H, W) over mask; 0 where it is empty."""
    kept = torch.where(mask, values, 0.0).to(_sum_dtype(values))
    mean = kept.sum(dim=(1, 2), keepdim=True) / mask.sum(dim=(1, 2), keepdim=True).clamp(min=1)
    return mean.to(values.dtype)
