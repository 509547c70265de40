"""What a run leaves behind: one small record per evaluation, a running sum of Ĉ, and what the user must be told.

Records stay on the device until the run ends, so that recording never makes the sampler wait; `Run.close` reads
them, and the flags, once. A `Trace` keeps the last few finished runs and never hands out one that is under way.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch.nn.functional as F
from torch import Tensor

from .grid import Grid
from .segmentation import Segmentation

KEPT_RUNS = 4
KEPT_EVALUATIONS = 256


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the U-Net under guidance, on the attention grid (h, w); norms are in ε units.

    index, step     count of evaluations, and the step of the schedule it belongs to; both from 0.
    sigma           noise level, the host's unit; guidance_scale: γ.
    labels          (B, h, w) int16, −1 = no prompt; foreground (B, h, w) bool.
    classifier      (B, h, w) mean of η = ‖ε_c − ε_u‖ in each patch; rescaled: the same of r·η.
    diffusion       (B, h, w) mean of ‖ε_u‖.
    ratio           (B, h, w) mean of r; 1 where S-CFG only watches.
    fresh           False where the labels are those of an earlier evaluation.
    preview         (B, 3, ≤256, ≤256) uint8 of the predicted picture, where the host gives one.
    soft            (B, h·w, K) fp16 token maps Ĉ, only where they are asked for.
    """

    index: int
    step: int
    sigma: float
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

    @property
    def grid(self) -> Grid:
        return Grid(self.labels.shape[1], self.labels.shape[2])

    def cpu(self) -> "Evaluation":
        moved = {name: value.cpu() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def patch_mean(values: Tensor, grid: Grid) -> Tensor:
    """(B, H, W) → (B, grid.h, grid.w) fp32: mean over the latent cells of each patch."""
    return F.adaptive_avg_pool2d(values[:, None].float(), (grid.h, grid.w))[:, 0]


@dataclass(frozen=True)
class PromptTokens:
    """Words of one positive prompt entry: token i of it has label `first_label` + i; empty texts are unnamed."""

    first_label: int
    texts: tuple[str, ...]


@dataclass
class Run:
    """The record of one sampling run; immutable by convention once `closed`.

    evaluations  at most `KEPT_EVALUATIONS`; a longer run keeps every second, then every fourth, … of them.
    token_sum    (B, h·w, K) running sum of Ĉ over `token_count` evaluations; K = tokens of all positive entries.
    notes        what the user must be told, each once.
    facts        plain values for the status line: layers, grids, tokens, entries.
    fingerprint  identifies the latent that the run returned.
    """

    tokens: list[PromptTokens] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    token_sum: Tensor | None = None
    token_count: int = 0
    notes: list[str] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    fingerprint: str | None = None
    closed: bool = False
    _stride: int = 1
    _all_finite: Tensor | None = None
    _all_foreground: Tensor | None = None

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

    def add(self, evaluation: Evaluation) -> None:
        if evaluation.index % self._stride:
            return
        self.evaluations.append(evaluation)
        if len(self.evaluations) > KEPT_EVALUATIONS:
            self._stride *= 2
            self.evaluations = [kept for kept in self.evaluations if kept.index % self._stride == 0]

    def close(self) -> None:
        """Read everything off the device, once."""
        if self.closed:
            return
        self.evaluations = [evaluation.cpu() for evaluation in self.evaluations]
        if self.token_sum is not None:
            self.token_sum = self.token_sum.cpu()
        if self._all_finite is not None and not bool(self._all_finite):
            self.note("some attention maps or predictions were not finite: plain CFG there")
        if self._all_foreground is not None and not bool(self._all_foreground):
            self.note("START tells no foreground from background here: the benchmark was the whole picture")
        self._all_finite = self._all_foreground = None
        self.closed = True


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
