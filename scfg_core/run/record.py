"""What a run leaves behind: its evaluations, a running sum of Ĉ, and notes to the user.

Records stay on the device until the run ends, so that recording never makes the sampler wait; `Run.close` reads
them, and the flags, once.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from ..grid import Grid
from ..method.fusion import TokenMaps
from ..method.segment import Segmentation
from ..method.settings import Settings
from ..prompt import Prompt
from .evaluation import Evaluation, Observation, by_label, evaluations_of, read_all
from .fingerprint import Fingerprint
from .notes import Note

KEPT_EVALUATIONS = 256
MOST_WAITING = 16
"""Evaluations whose records are not computed yet."""


@dataclass(frozen=True)
class Facts:
    """What an evaluation's maps were made of.

    layers   how many layers were summed; grids: theirs, largest first.
    tokens   of all positive entries; prompts: how many of these there are.
    backend  what computed the maps: "triton" or "pytorch".
    by_magnitude  whether there were none: regions are patches of the latent (`run.magnitude`).
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
    notes        what the user is told, each once; explained: the `Note` behind each, with its cause and remedy.
    followed     words that a mask followed, one text per mask.
    facts        what the last evaluation with maps was made of, for the status line.
    min_region   share of the image below which a part of a hard mask from words is dropped (`Settings`).
    schedule     noise levels of the steps, the last one reached included: from the highest to 0, as a rule.
    fingerprint  identifies the latent that the run returned.
    """

    prompts: list[Prompt] = field(default_factory=list)
    layers: tuple[str, ...] = ()
    token_sums: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    token_grid: Grid | None = None
    token_count: int = 0
    notes: list[str] = field(default_factory=list)
    followed: tuple[str, ...] = ()
    explained: dict[str, Note] = field(default_factory=dict)
    facts: Facts | None = None
    min_region: float = Settings().min_region
    schedule: tuple[float, ...] = ()
    fingerprint: Fingerprint | None = None
    closed: bool = False
    _evaluations: list[Evaluation] = field(default_factory=list)
    _waiting: list[Observation] = field(default_factory=list)
    _stride: int = 1
    _at_close: list[Callable[[], None]] = field(default_factory=list)
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

    def remedies(self) -> list[str]:
        """What the user can do about an inactive run, each once; [] where S-CFG was active."""
        notes = [] if self.evaluations else [self.explained[text] for text in self.notes]
        return list(dict.fromkeys(note.remedy for note in notes if note.can_be_remedied))

    def mean_scores(self) -> TokenMaps | None:
        """Ĉ (B, h·w, K), averaged over the evaluations; None where nothing was collected."""
        if not self.token_sums or self.token_grid is None:
            return None
        return TokenMaps(by_label(self.token_sums) / self.token_count, self.token_grid, renormalised=True)

    def mean_guidance(self) -> float | None:
        """Mean of γ·r over the images and evaluations of a closed run; None where nothing was recorded."""
        if not self.evaluations:
            return None
        scales = [float(kept.ratio.mean()) * kept.guidance_scale for kept in self.evaluations]
        return sum(scales) / len(scales)

    def followed_shares(self) -> list[tuple[str, float]]:
        """Words that a mask followed, and its mean at the end of a closed run, 0…1."""
        last = self.evaluations[-1].followed if self.evaluations else None
        return (
            []
            if last is None
            else [(words, float(mask.mean())) for words, mask in zip(self.followed, last, strict=True)]
        )

    def at_close(self, report: Callable[[], None]) -> None:
        """Call `report` when the run closes, to add notes for which it may read the device."""
        self._at_close.append(report)

    def note(self, note: Note, **fields: object) -> None:
        """Add a note for the user, once."""
        text = note.text.format(**fields)
        if text not in self.notes:
            self.notes.append(text)
            self.explained[text] = note

    def add_scores(self, segmentation: Segmentation) -> None:
        """Add an evaluation's Ĉ to the running sums, which begin anew where the grid or the batch changes."""
        scores = segmentation.scores
        if scores is None:  # regions given by the caller
            return
        images = {sums.shape[0] for sums in self.token_sums.values()} or {scores.shape[0]}
        if (self.token_grid, images) != (segmentation.grid, {scores.shape[0]}):
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
        found = [seen.segmentation for seen in waiting]
        finite = [regions.finite for regions in found if regions.finite is not None]
        finite += [total - total == 0 for total in _totals([seen.norm for seen in waiting])]
        separated = [regions.has_foreground for regions in found if regions.has_foreground is not None]
        self._all_finite = _all(self._all_finite, finite)
        self._all_foreground = _all(self._all_foreground, separated)
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
        """Read everything off the device, once; a run that recorded nothing says why, if nobody did."""
        if self.closed:
            return
        self.evaluations = read_all(self.evaluations)
        self.token_sums = {labels: sums.cpu() for labels, sums in self.token_sums.items()}
        if self._all_finite is not None and not bool(self._all_finite):
            self.note(Note.NOT_FINITE)
        if self._all_foreground is not None and not bool(self._all_foreground):
            self.note(Note.NO_FOREGROUND)
        self._all_finite = self._all_foreground = None
        for report in self._at_close:
            report()
        self._at_close = []
        if not self.evaluations and not self.notes:
            self.note(Note.NOTHING_SAMPLED)
        self.closed = True


def _all(so_far: Tensor | None, flags: list[Tensor]) -> Tensor | None:
    """Whether all flags (B,) hold, and those before; None where there are none."""
    if not flags:
        return so_far
    now = _joined(flags)[0].all()
    return now if so_far is None else so_far & now.to(so_far.device)


def _totals(norms: list[Tensor]) -> Iterator[Tensor]:
    """Sums (…) of norms (B, H, W), those of one shape at a time: finite where all their cells are."""
    for _, alike in groupby(norms, key=lambda norm: norm.shape):
        yield torch.stack(list(alike)).sum(dim=(2, 3)).flatten()


def _joined(parts: list[Tensor]) -> list[Tensor]:
    """One tensor (B,) of several; none of none."""
    return [torch.cat([part.to(parts[0].device) for part in parts])] if parts else []
