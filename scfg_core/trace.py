"""What a run leaves behind: one small record per evaluation, a running sum of Ĉ, and what the user must be told.

Records stay on the device until the run ends, so that recording never makes the sampler wait; `Run.close` reads
them, and the flags, once. A `Trace` keeps the last few finished runs and never hands out one that is under way.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .fusion import TokenMaps
from .grid import Grid
from .segmentation import Segmentation
from .words import PromptTokens

KEPT_RUNS = 4
KEPT_EVALUATIONS = 256


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the U-Net under guidance, on the attention grid (h, w); norms are in ε units.

    index           count of evaluations, from 0; a sampler may evaluate several times in a step.
    sigma           noise level in the host's unit, on the device until the run is closed.
    guidance_scale  γ.
    labels          (B, h, w) int16 (int32 where it must), −1 = no prompt; foreground (B, h, w) bool.
    classifier      (B, h, w) mean of η = ‖ε_c − ε_u‖ in each patch; rescaled: the same of r·η.
    diffusion       (B, h, w) mean of ‖ε_u‖.
    ratio           (B, h, w) mean of r; 1 where S-CFG only watches.
    fresh           False where the labels are those of an earlier evaluation.
    preview         (B, 3, ≤256, ≤256) uint8 of the predicted picture, where the host gives one.
    negative        (B, h, w) such labels in the negative prompt's own tokens, only where they are asked for.
    soft            (B, h·w, K) fp16 token maps Ĉ, only where they are asked for; scored: the labels of its columns.
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
    negative: Tensor | None = None
    soft: Tensor | None = None
    scored: tuple[range, ...] = ()

    def soft_maps(self) -> TokenMaps | None:
        """Ĉ (B, h·w, K) of all labels up to the highest that has any; None where they were not kept."""
        if self.soft is None:
            return None
        parts = self.soft.split([len(labels) for labels in self.scored], dim=-1)
        return TokenMaps(_by_label(dict(zip(self.scored, parts, strict=True))), self.grid, renormalised=True)

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
class Fingerprint:
    """Identifies a latent, also after a change of device or dtype: its shape and 256 of its values."""

    shape: tuple[int, ...]
    values: Tensor

    @classmethod
    def of(cls, latent: Tensor) -> "Fingerprint":
        flat = latent.detach().flatten()
        count = min(256, flat.numel())
        places = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(1, count - 1)
        return cls(tuple(latent.shape), flat[places].float().cpu())

    def matches(self, other: "Fingerprint") -> bool:
        """Whether both are the same latent, up to the rounding of a half-precision copy."""
        if self.shape != other.shape:
            return False
        tolerance = 0.01 * float(self.values.nan_to_num(0, 0, 0).std(correction=0)) + 1e-6
        return torch.allclose(self.values, other.values, rtol=0.01, atol=tolerance, equal_nan=True)


@dataclass
class Run:
    """The record of one sampling run; not changed any more once `closed`.

    tokens       the tokens of the positive entries, in label order; negative_tokens: of the negative ones.
    evaluations  at most `KEPT_EVALUATIONS`; a longer run keeps every second, then every fourth, … of them.
    token_sums   labels of a positive entry → (B, h·w, K) running sum of its Ĉ over `token_count` evaluations, on
                 `token_grid`; at an evaluation in which it is silent, nothing is added.
    notes        what the user must be told, each once.
    facts        plain values for the status line: layers, grids, tokens, entries.
    schedule     noise levels of the steps, the last one reached included: from the highest to 0, as a rule.
    fingerprint  identifies the latent that the run returned.
    """

    tokens: list[PromptTokens] = field(default_factory=list)
    negative_tokens: list[PromptTokens] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    token_sums: dict[range, Tensor] = field(default_factory=dict)
    token_grid: Grid | None = None
    token_count: int = 0
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    schedule: tuple[float, ...] = ()
    fingerprint: Fingerprint | None = None
    closed: bool = False
    _stride: int = 1
    _all_finite: Tensor | None = None
    _all_foreground: Tensor | None = None

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
        """Mean of γ·r over the pictures and evaluations of a closed run; None where nothing was recorded."""
        if not self.evaluations:
            return None
        scales = [float(each.ratio.mean()) * each.guidance_scale for each in self.evaluations]
        return sum(scales) / len(scales)

    def note(self, text: str) -> None:
        """Tell the user `text`, once."""
        if text not in self.notes:
            self.notes.append(text)

    def watch(self, segmentation: Segmentation) -> None:
        """Fold the flags of a segmentation into those of the run, on the device."""
        if segmentation.finite is not None:
            self._all_finite = _both(self._all_finite, segmentation.finite.all())
        if segmentation.has_foreground is not None:
            self._all_foreground = _both(self._all_foreground, segmentation.has_foreground.all())

    def watch_predictions(self, norm: Tensor) -> None:
        """Fold whether the guidance norm is finite everywhere into the flags, on the device."""
        self._all_finite = _both(self._all_finite, torch.isfinite(norm).all())

    def add(self, evaluation: Evaluation) -> None:
        if evaluation.index % self._stride:
            return
        self.evaluations.append(evaluation)
        if len(self.evaluations) > KEPT_EVALUATIONS:
            self._stride *= 2
            self.evaluations = [kept for kept in self.evaluations if kept.index % self._stride == 0]

    def restart(self) -> None:
        """Forget what was recorded; the words stay. For a host that samples again into the same record."""
        fresh = Run(tokens=self.tokens, facts=self.facts)
        vars(self).update(vars(fresh))

    def close(self) -> None:
        """Read everything off the device, once."""
        if self.closed:
            return
        self.evaluations = [evaluation.read() for evaluation in self.evaluations]
        self.token_sums = {labels: each.cpu() for labels, each in self.token_sums.items()}
        if self._all_finite is not None and not bool(self._all_finite):
            self.note("some attention maps or predictions were not finite: plain CFG there")
        if self._all_foreground is not None and not bool(self._all_foreground):
            self.note("START tells no foreground from background here: the benchmark was the whole picture")
        self._all_finite = self._all_foreground = None
        self.closed = True


def _by_label(parts: dict[range, Tensor]) -> Tensor:
    """(B, n, K) of the columns of several entries, each at its labels; 0 where a label has none."""
    if [labels.start for labels in parts] == [0]:
        return next(iter(parts.values()))
    first = next(iter(parts.values()))
    joined = first.new_zeros((*first.shape[:2], max(labels.stop for labels in parts)))
    for labels, part in parts.items():
        joined[..., labels.start : labels.stop] = part
    return joined


def _both(so_far: Tensor | None, now: Tensor) -> Tensor:
    return now if so_far is None else so_far & now.to(so_far.device)


class Trace:
    """The last finished runs of one model; several samplers may share it, from several threads."""

    def __init__(self, kept: int = KEPT_RUNS) -> None:
        self._lock = threading.Lock()
        self._runs: deque[Run] = deque(maxlen=kept)

    def add(self, run: Run) -> None:
        """Close a run and keep it."""
        run.close()
        with self._lock:
            self._runs.append(run)

    def runs(self) -> list[Run]:
        """Finished runs, oldest first."""
        with self._lock:
            return list(self._runs)

    def find(self, matches: Callable[[Run], bool]) -> Run | None:
        """The newest finished run for which `matches` holds."""
        return next((run for run in reversed(self.runs()) if matches(run)), None)
