"""What a run leaves behind: one small record per evaluation, a running sum of Ĉ, and notes to the user.

Records stay on the device until the run ends, so that recording never makes the sampler wait; `Run.close` reads
them, and the flags, once.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..grid import Grid, patch_mean
from ..method.fusion import TokenMaps
from ..method.segment import Segmentation
from ..prompt import Prompt
from .fingerprint import Fingerprint
from .noise import NoiseLevel
from .notes import Note

KEPT_EVALUATIONS = 256
MOST_WAITING = 16
"""Evaluations whose records are not computed yet."""


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

    def soft_maps(self) -> TokenMaps | None:
        """Ĉ (B, h·w, K) of all labels up to the highest that has any; None where they were not kept."""
        if self.soft is None:
            return None
        parts = self.soft.split([len(labels) for labels in self.soft_labels], dim=-1)
        return TokenMaps(_by_label(dict(zip(self.soft_labels, parts, strict=True))), self.grid, renormalised=True)

    @property
    def grid(self) -> Grid:
        return Grid(self.labels.shape[1], self.labels.shape[2])

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
    uncond_norm   norm (B, H, W) of ε(x, ∅), times the noise level's `epsilon_divisor`.
    ratio         r (B, 1, H, W), None where S-CFG only observes.
    preview       gives (B, 3, ≤256, ≤256) uint8.
    """

    index: int
    sigma: Tensor | float
    guidance_scale: float
    segmentation: Segmentation
    norm: Tensor
    noise: NoiseLevel
    uncond_norm: Tensor
    ratio: Tensor | None
    fresh: bool = True
    preview: Callable[[], Tensor] | None = None
    soft: Tensor | None = None

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
    norm = torch.stack([seen.norm * _per_image(seen.noise.epsilon_unit) for seen in observations])
    ratio = torch.stack([_ratio_of(seen) for seen in observations])
    uncond = torch.stack([seen.uncond_norm / _per_image(seen.noise.epsilon_divisor) for seen in observations])
    maps = torch.stack((norm, norm * ratio, uncond, ratio))
    means = patch_mean(rearrange(maps, "what e b h w -> (what e b) h w"), grid)
    means = rearrange(means, "(what e b) h w -> e what b h w", what=4, e=len(observations))
    return [
        Evaluation(
            index=seen.index,
            sigma=seen.sigma,
            guidance_scale=seen.guidance_scale,
            labels=_compact(seen.segmentation),
            foreground=seen.segmentation.foreground,
            classifier=classifier,
            rescaled=rescaled,
            diffusion=diffusion,
            ratio=mean_ratio,
            fresh=seen.fresh,
            preview=None if seen.preview is None else seen.preview(),
            soft=seen.soft,
            soft_labels=() if seen.soft is None else seen.segmentation.score_labels,
        )
        for seen, (classifier, rescaled, diffusion, mean_ratio) in zip(observations, means, strict=True)
    ]


def _ratio_of(seen: Observation) -> Tensor:
    return torch.ones_like(seen.norm) if seen.ratio is None else seen.ratio[:, 0]


def _per_image(unit: Tensor | float) -> Tensor | float:
    """A factor that broadcasts against (B, C, H, W), against (B, H, W)."""
    return unit[:, 0] if isinstance(unit, Tensor) and unit.ndim == 4 else unit


def _compact(segmentation: Segmentation) -> Tensor:
    """Labels in the smallest integers that hold them."""
    fits = segmentation.num_labels is not None and segmentation.num_labels <= torch.iinfo(torch.int16).max
    return segmentation.labels.to(torch.int16 if fits else torch.int32)


@dataclass(frozen=True)
class Facts:
    """What an evaluation's maps were made of.

    layers   how many layers were summed; grids: theirs, largest first.
    tokens   of all positive entries; prompts: how many of these there are.
    backend  what computed the maps: "triton" or "pytorch".
    by_magnitude  whether there were none: regions are patches of the latent (`method.magnitude`).
    """

    layers: int
    grids: tuple[Grid, ...]
    tokens: int
    prompts: int
    backend: str = "pytorch"
    by_magnitude: bool = False


@dataclass
class Run:
    """The record of one sampling run; it does not change any more once `closed`.

    prompts      the positive entries, in label order.
    layers       names of the observed layers, in the order in which they run.
    token_sums   labels of a positive entry → (B, h·w, K) running sum of its Ĉ over `token_count` evaluations, on
                 `token_grid`; an evaluation in which the entry is inactive adds nothing.
    notes        what the user is told, each once.
    facts        what the last evaluation with maps was made of, for the status line.
    schedule     noise levels of the steps, the last one reached included: from the highest to 0, as a rule.
    fingerprint  identifies the latent that the run returned.
    """

    prompts: list[Prompt] = field(default_factory=list)
    layers: tuple[str, ...] = ()
    token_sums: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    token_grid: Grid | None = None
    token_count: int = 0
    notes: list[str] = field(default_factory=list)
    facts: Facts | None = None
    schedule: tuple[float, ...] = ()
    fingerprint: Fingerprint | None = None
    closed: bool = False
    _evaluations: list[Evaluation] = field(default_factory=list)
    _waiting: list[Observation] = field(default_factory=list)
    _stride: int = 1
    _all_finite: Tensor | None = None
    _all_foreground: Tensor | None = None

    @property
    def evaluations(self) -> list[Evaluation]:
        """At most `KEPT_EVALUATIONS`; a longer run keeps every second, then every fourth, … of them."""
        self._settle()
        return self._evaluations

    @evaluations.setter
    def evaluations(self, evaluations: list[Evaluation]) -> None:
        self._evaluations, self._waiting = evaluations, []

    def step_of(self, evaluation: Evaluation) -> int:
        """Step of the schedule, from 0, in which a closed run's evaluation lies."""
        sigma, last = float(evaluation.sigma), max(0, len(self.schedule) - 2)
        if self.schedule and self.schedule[0] < self.schedule[-1]:  # flipped: noise is added
            reached = sum(level <= sigma * (1 + 1e-4) for level in self.schedule)
        else:
            reached = sum(level >= sigma * (1 - 1e-4) for level in self.schedule)
        return min(max(0, reached - 1), last)

    def mean_scores(self) -> TokenMaps | None:
        """Ĉ (B, h·w, K), averaged over the evaluations; None where nothing was collected."""
        if not self.token_sums or self.token_grid is None:
            return None
        return TokenMaps(_by_label(self.token_sums) / self.token_count, self.token_grid, renormalised=True)

    def mean_guidance(self) -> float | None:
        """Mean of γ·r over the images and evaluations of a closed run; None where nothing was recorded."""
        if not self.evaluations:
            return None
        scales = [float(kept.ratio.mean()) * kept.guidance_scale for kept in self.evaluations]
        return sum(scales) / len(scales)

    def note(self, note: Note, **fields: object) -> None:
        """Add a note for the user, once."""
        text = note.text.format(**fields)
        if text not in self.notes:
            self.notes.append(text)

    def add_scores(self, segmentation: Segmentation) -> None:
        """Add an evaluation's Ĉ to the running sums, which begin anew where the grid or the batch changes."""
        scores = segmentation.scores
        if scores is None:  # regions given by the caller
            return
        images = {len(sums) for sums in self.token_sums.values()} or {len(scores)}
        if (self.token_grid, images) != (segmentation.grid, {len(scores)}):
            self.token_sums, self.token_count, self.token_grid = {}, 0, segmentation.grid
        parts = scores.split([len(labels) for labels in segmentation.score_labels], dim=-1)
        for labels, part in zip(segmentation.score_labels, parts, strict=True):
            before = self.token_sums.get(labels)
            self.token_sums[labels] = part.clone() if before is None else before.add_(part)
        self.token_count += 1

    def add(self, evaluation: Observation | Evaluation) -> None:
        """Record an evaluation; an observation's maps are computed when somebody looks, or with the next ones."""
        if isinstance(evaluation, Evaluation):
            self._keep([evaluation])
            return
        self._waiting.append(evaluation)
        if len(self._waiting) >= MOST_WAITING:
            self._settle()

    def _settle(self) -> None:
        """Compute the records that wait, and fold what the user may have to be told of them into flags."""
        waiting, self._waiting = self._waiting, []
        for seen in waiting:
            finite, separated = seen.segmentation.finite, seen.segmentation.has_foreground
            if finite is not None:
                self._all_finite = _both(self._all_finite, finite.all())
            if separated is not None:
                self._all_foreground = _both(self._all_foreground, separated.all())
            self._all_finite = _both(self._all_finite, torch.isfinite(seen.norm).all())
        self._keep(self._records([seen for seen in waiting if seen.index % self._stride == 0]))

    def _records(self, observations: list[Observation]) -> list[Evaluation]:
        """The records of observations; what cannot be recorded is left out."""
        try:
            return evaluations_of(observations)
        except Exception as error:
            if len(observations) > 1:
                return [record for seen in observations for record in self._records([seen])]
            logging.exception("S-CFG could not record an evaluation", exc_info=error)
            self.note(Note.UNRECORDED)
            return []

    def _keep(self, evaluations: list[Evaluation]) -> None:
        self._evaluations += [kept for kept in evaluations if kept.index % self._stride == 0]
        while len(self._evaluations) > KEPT_EVALUATIONS:
            self._stride *= 2
            self._evaluations = [kept for kept in self._evaluations if kept.index % self._stride == 0]

    def restart(self) -> None:
        """Forget what was recorded; prompts and layers stay. For a host that samples again into the same record."""
        fresh = Run(prompts=self.prompts, layers=self.layers)
        vars(self).update(vars(fresh))

    def close(self) -> None:
        """Read everything off the device, once."""
        if self.closed:
            return
        self.evaluations = [evaluation.read() for evaluation in self.evaluations]
        self.token_sums = {labels: sums.cpu() for labels, sums in self.token_sums.items()}
        if self._all_finite is not None and not bool(self._all_finite):
            self.note(Note.NOT_FINITE)
        if self._all_foreground is not None and not bool(self._all_foreground):
            self.note(Note.NO_FOREGROUND)
        self._all_finite = self._all_foreground = None
        self.closed = True


def _by_label(parts: Mapping[tuple[int, ...], Tensor]) -> Tensor:
    """(B, n, K) of the columns of several entries, each at its label; 0 where a label has none."""
    first = next(iter(parts.values()))
    count = max(labels[-1] for labels in parts) + 1
    if len(parts) == 1 and count == first.shape[2]:
        return first
    joined = first.new_zeros((*first.shape[:2], count))
    for labels, part in parts.items():
        joined[..., list(labels)] = part
    return joined


def _both(so_far: Tensor | None, now: Tensor) -> Tensor:
    return now if so_far is None else so_far & now.to(so_far.device)
