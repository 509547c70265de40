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
        moved: dict[str, Any] = {
            name: value.cpu() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        moved["sigma"] = float(torch.as_tensor(self.sigma).flatten()[0])
        return replace(self, **moved)


@dataclass(frozen=True)
class Observation:
    """An evaluation as it was met, on the device: what costs anything to compute waits until somebody looks.

    segmentation  its regions.
    norm          η (B, H, W) of the predictions' difference, in their terms.
    uncond        ε(x, ∅) (B, C, H, W), times the noise level's `epsilon_divisor`.
    ratio         r (B, 1, H, W), None where S-CFG only observes.
    preview       gives (B, 3, ≤256, ≤256) uint8.
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
    fresh: bool = True
    preview: Callable[[], Tensor] | None = None
    soft: Tensor | None = None
    followed: tuple[Tensor, ...] = ()

    def read(self) -> "Evaluation":
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
    norm = torch.stack([_in_units(seen.norm, seen.noise.epsilon_unit) for seen in observations])
    ratio = torch.stack([_ratio_of(seen) for seen in observations])
    uncond = guidance_norm(torch.cat([seen.uncond for seen in observations])).view_as(norm)
    uncond = torch.stack(
        [_in_units(part, 1 / seen.noise.epsilon_divisor) for part, seen in zip(uncond, observations, strict=True)]
    )
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
            preview=None if seen.preview is None else seen.preview(),
            soft=seen.soft,
            soft_labels=() if seen.soft is None else seen.segmentation.score_labels,
            followed=torch.stack([patch_mean(mask, grid) for mask in seen.followed]) if seen.followed else None,
            frames=seen.segmentation.frames,
        )
        for seen, compact, (classifier, rescaled, diffusion, mean_ratio) in zip(
            observations, labels, means, strict=True
        )
    ]


def _ratio_of(seen: Observation) -> Tensor:
    return torch.ones_like(seen.norm) if seen.ratio is None else seen.ratio[:, 0]


def _in_units(norm: Tensor, unit: Tensor | float) -> Tensor:
    """A norm (B, H, W) times a factor that is a number, or broadcasts against (B, C, H, W)."""
    if isinstance(unit, Tensor):
        return norm * (unit[:, 0] if unit.ndim == 4 else unit)
    return norm if unit == 1 else norm * unit


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
