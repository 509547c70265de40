"""The record of one evaluation: what a sampler's call leaves behind, small, on the attention grid.

An `Observation` is what is at hand when the evaluation ends; its maps become an `Evaluation` when somebody looks,
many at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..grid import Grid, patch_mean
from ..method.fusion import TokenMaps
from ..method.guidance import guidance_norm
from ..method.segment import Segmentation
from .noise import NoiseLevel

FEW_NUMBERS = 2**22
"""Of latents whose previews are made together."""

READ_TOGETHER = 16
"""Evaluations that are read off the device at a time."""


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the model under guidance, on the attention grid (h, w); norms are in ε units.

    index           count of evaluations, from 0; a sampler may evaluate several times in a step.
    sigma           noise level in the host's unit, on the device until the run is closed.
    guidance_scale  γ.
    labels          (B, h, w) int16 (int32 where it must), −1 = no prompt; foreground (B, h, w) bool.
    classifier      (B, h, w) mean of η = ‖ε_c − ε_u‖ in each patch; rescaled: the same of r·η.
    diffusion       (B, h, w) mean of ‖ε_u‖.
    ratio           (B, h, w) mean of r; 1 where S-CFG only observes.
    fresh           False where the labels are those of an earlier evaluation.
    preview         (B, 3, ≤256, ≤256) uint8 of the predicted image, where the host gives one.
    soft            (B, h·w, K) fp16 token maps Ĉ, only where they are asked for; soft_labels: the labels of its
                    columns, one sequence per prompt entry.
    followed        (F, B, h, w) mean of the masks that followed words and acted, in the order of `Run.followed`.
    frames          how many lie one below the other in the rows h (`Grid`).
    """

    index: int
    sigma: Tensor | float
    guidance_scale: float
    labels: Tensor
    foreground: Tensor
    classifier: Tensor
    rescaled: Tensor
    diffusion: Tensor
    ratio: Tensor
    fresh: bool = True
    preview: Tensor | None = None
    soft: Tensor | None = None
    soft_labels: tuple[tuple[int, ...], ...] = ()
    followed: Tensor | None = None
    frames: int = 1

    def soft_maps(self) -> TokenMaps | None:
        """Ĉ (B, h·w, K) of all labels up to the highest that has any; None where they were not kept."""
        if self.soft is None:
            return None
        parts = self.soft.split([len(labels) for labels in self.soft_labels], dim=-1)
        return TokenMaps(by_label(dict(zip(self.soft_labels, parts, strict=True))), self.grid, renormalised=True)

    @property
    def grid(self) -> Grid:
        return Grid(self.labels.shape[1], self.labels.shape[2], self.frames)

    def read(self) -> "Evaluation":
        """The same on the CPU, with sigma as a number."""
        return read_all([self])[0]


@dataclass(frozen=True)
class Observation:
    """An evaluation as it was met, on the device: what costs anything to compute waits until somebody looks.

    segmentation  its regions.
    norm          η (B, H, W) of the predictions' difference, in their terms.
    uncond        ε(x, ∅) (B, C, H, W), times the noise level's `epsilon_divisor`.
    ratio         r (B, 1, H, W), None where S-CFG only observes.
    guided        gives the guided prediction (B, C, …), for the preview.
    preview       from guided predictions (N, C, …) to images (N, 3, ≤256, ≤256) uint8; one for a whole run.
    followed      masks (B, H, W) that followed words and acted.
    """

    index: int
    sigma: Tensor | float
    guidance_scale: float
    segmentation: Segmentation
    norm: Tensor
    noise: NoiseLevel
    uncond: Tensor
    ratio: Tensor | None
    guided: Callable[[], Tensor]
    fresh: bool = True
    preview: Callable[[Tensor], Tensor] | None = None
    soft: Tensor | None = None
    followed: tuple[Tensor, ...] = ()

    def read(self) -> Evaluation:
        """The evaluation on the CPU."""
        return evaluations_of([self])[0].read()


@torch.no_grad()
def evaluations_of(observations: Sequence[Observation]) -> list[Evaluation]:
    """The records of some evaluations, on their device: those of the same shapes in one go."""
    records: list[Evaluation] = []
    for _, group in groupby(observations, key=lambda seen: (seen.norm.shape, seen.segmentation.labels.shape)):
        records += _evaluations(list(group))
    return records


def _evaluations(observations: Sequence[Observation]) -> list[Evaluation]:
    grid = observations[0].segmentation.grid
    levels = _together([seen.noise for seen in observations])
    norm = _in_units(torch.stack([seen.norm for seen in observations]), [level.epsilon_unit for level in levels])
    ratio = torch.stack([_ratio_of(seen) for seen in observations])
    uncond = guidance_norm(torch.cat([seen.uncond for seen in observations])).view_as(norm)
    uncond = _in_units(uncond, [1 / level.epsilon_divisor for level in levels])
    maps = torch.stack((norm, norm * ratio, uncond, ratio))
    means = patch_mean(rearrange(maps, "what e b h w -> (what e b) h w"), grid)
    means = rearrange(means, "(what e b) h w -> e what b h w", what=4, e=len(observations))
    labels = _compact([seen.segmentation for seen in observations])
    return [
        Evaluation(
            index=seen.index,
            sigma=seen.sigma,
            guidance_scale=seen.guidance_scale,
            labels=compact,
            foreground=seen.segmentation.foreground,
            classifier=classifier,
            rescaled=rescaled,
            diffusion=diffusion,
            ratio=mean_ratio,
            fresh=seen.fresh,
            preview=preview,
            soft=seen.soft,
            soft_labels=() if seen.soft is None else seen.segmentation.score_labels,
            followed=torch.stack([patch_mean(mask, grid) for mask in seen.followed]) if seen.followed else None,
            frames=seen.segmentation.frames,
        )
        for seen, compact, preview, (classifier, rescaled, diffusion, mean_ratio) in zip(
            observations, labels, _previews(observations), means, strict=True
        )
    ]


def read_all(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The same on the CPU, with sigma as a number: what is alike of several crosses over in one piece."""
    found: list[Evaluation] = []
    for first in range(0, len(evaluations), READ_TOGETHER):
        found += _read_together(evaluations[first : first + READ_TOGETHER])
    return found


def _read_together(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    parts: list[dict[str, Any]] = [dict(vars(evaluation)) for evaluation in evaluations]
    alike: dict[Any, list[tuple[dict[str, Any], str]]] = {}
    for part in parts:
        if isinstance(part["sigma"], Tensor):
            part["sigma"] = part["sigma"].flatten()[0]
        for name, value in part.items():
            if isinstance(value, Tensor):
                alike.setdefault((value.shape, value.dtype, value.device), []).append((part, name))
    for places in alike.values():
        values = torch.stack([part[name] for part, name in places]).cpu().unbind()
        for (part, name), value in zip(places, values, strict=True):
            part[name] = value
    return [replace(evaluations[0], **part | {"sigma": float(part["sigma"])}) for part in parts]


def _ratio_of(seen: Observation) -> Tensor:
    return torch.ones_like(seen.norm) if seen.ratio is None else seen.ratio[:, 0]


def _together(levels: Sequence[NoiseLevel]) -> Sequence[NoiseLevel]:
    """The levels as one, of tensors (E, B, …), where they differ in their numbers alone; else as they are."""
    signals, noises = (_stacked([getattr(level, name) for level in levels]) for name in ("signal", "noise"))
    if signals is None or noises is None or len({level.prediction for level in levels}) > 1:
        return levels
    return [replace(levels[0], signal=signals, noise=noises)]


def _stacked(numbers: Sequence[Tensor | float]) -> Tensor | float | None:
    """Numbers of several evaluations: a tensor (E, B, C, H, W) of tensors, one number where all are the same."""
    tensors = [number for number in numbers if isinstance(number, Tensor)]
    if len(tensors) == len(numbers) and len({tensor.shape for tensor in tensors}) == 1:
        return torch.stack([tensor.reshape((1,) * (4 - tensor.ndim) + tensor.shape) for tensor in tensors])
    return numbers[0] if not tensors and len(set(numbers)) == 1 else None


def _in_units(norms: Tensor, units: Sequence[Tensor | float]) -> Tensor:
    """Norms (E, B, H, W) times one factor, or one for each: numbers, or tensors against (B, C, H, W)."""
    if len(units) > 1:
        return torch.cat([_in_units(norm[None], [unit]) for norm, unit in zip(norms, units, strict=True)])
    (unit,) = units
    if isinstance(unit, Tensor):
        return norms * (unit[..., 0, :, :] if unit.ndim > 2 else unit)
    return norms if unit == 1 else norms * unit


def _previews(observations: Sequence[Observation]) -> list[Tensor | None]:
    """The images of evaluations of one shape, as many at a time as are small together."""
    images: list[Tensor | None] = []
    step = max(1, FEW_NUMBERS // observations[0].uncond.numel())
    for preview, group in groupby(observations, key=lambda seen: seen.preview):
        found = list(group)
        if preview is None:
            images += [None] * len(found)
            continue
        for first in range(0, len(found), step):
            guided = [seen.guided() for seen in found[first : first + step]]
            images += preview(torch.cat(guided)).split([len(one) for one in guided])
    return images


def _compact(segmentations: Sequence[Segmentation]) -> Tensor:
    """Their labels (E, B, h, w) in the smallest integers that hold them."""
    counts, most = [found.num_labels for found in segmentations], torch.iinfo(torch.int16).max
    fits = all(count is not None and count <= most for count in counts)
    return torch.stack([found.labels for found in segmentations]).to(torch.int16 if fits else torch.int32)


def by_label(parts: Mapping[tuple[int, ...], Tensor]) -> Tensor:
    """(B, n, K) of the columns of several entries, each at its label; 0 where a label has none."""
    first = next(iter(parts.values()))
    count = max(labels[-1] for labels in parts) + 1
    if len(parts) == 1 and count == first.shape[2]:
        return first
    joined = first.new_zeros((*first.shape[:2], count))
    for labels, part in parts.items():
        joined[..., list(labels)] = part
    return joined
