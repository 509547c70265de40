"""One sampling run, host-neutral: what to do at each evaluation with whatever maps there are.

    begin → observe, observe, … → ratio (segmentation, Eq. 13, record) → end_evaluation → begin → …

A host says which rows belong to which prompt and where a prompt acts; everything else about a run is decided here:
reusing labels where an evaluation has no maps, giving up after running out of memory, and recording.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import get_args

import torch
from einops import rearrange
from torch import Tensor

from ..collect.budget import DEFAULT_BUDGET_MIB, CollectorOutOfMemory, is_out_of_memory
from ..collect.calls import Key, LayerCall
from ..collect.collector import Collector
from ..collect.layers import LayerChoice
from ..errors import SettingsError
from ..grid import Grid, patch_mean
from ..method.entries import Area, EntryMaps
from ..method.fusion import TokenMaps
from ..method.guidance import guidance_norm, ratio_map
from ..method.magnitude import magnitude_patches, magnitude_settings
from ..method.segment import Segmentation, segment_entries
from ..method.settings import Settings
from ..prompt import Prompt
from .guard import guarded
from .noise import NoiseLevel
from .notes import Note
from .record import Evaluation, Facts, Run
from .words import labels_of


@dataclass(frozen=True)
class Collection:
    """How maps are collected, whatever is done with them.

    power_weights  weights of S⁰, S¹, …; None = those of the settings.
    layers         of the two deepest levels with attention: "all", the "last" three of each level,
                   or "auto": all where a level has at most six, else its last three. Of a transformer's blocks:
                   "all", the "last" five, or "auto": five between 30 and 50 % of its depth.
    budget_mib     most that one layer may take beyond its own tensors, MiB, > 0.
    every          collect at every k-th evaluation, 1…100; between them the last labels serve.
    soft_maps      keep Ĉ of every evaluation (fp16, h·w·L numbers per evaluation).

    Raises `SettingsError` for a value outside its range.
    """

    power_weights: tuple[float, ...] | None = None
    layers: LayerChoice = "auto"
    budget_mib: float = DEFAULT_BUDGET_MIB
    every: int = 1
    soft_maps: bool = False

    def __post_init__(self) -> None:
        choices = get_args(LayerChoice)
        if self.layers not in choices:
            raise SettingsError(f"expected layers of {', '.join(choices)}, got {self.layers!r}: choose one")
        if not self.budget_mib > 0:
            raise SettingsError(f"expected budget_mib > 0, got {self.budget_mib}: the default is 256")
        if not 1 <= self.every <= 100:
            raise SettingsError(f"expected every from 1 to 100, got {self.every}: 1 collects every time")

    def applied_to(self, settings: Settings) -> Settings:
        """The settings, with this collection's power weights where it has some."""
        return settings if self.power_weights is None else replace(settings, power_weights=self.power_weights)


@dataclass(frozen=True)
class Placement:
    """Where a prompt acts in the image, see `EntryMaps`; whether it is active at this evaluation at all."""

    prompt: Hashable
    area: Area | None = None
    weight: Tensor | None = None
    active: bool = True


@dataclass(frozen=True)
class Predictions:
    """Both predictions of one evaluation.

    x, cond, uncond  (B, C, H, W) or, with frames, (B, C, T, H, W): what went into the model, and what it made of it
                     with either prompt.
    noise            the noise level, and what a prediction is.
    sigma            noise level in the host's unit, for the record.
    guidance_scale   γ.
    active           whether S-CFG acts in this part of the schedule.
    """

    x: Tensor
    cond: Tensor
    uncond: Tensor
    noise: NoiseLevel
    sigma: Tensor | float
    guidance_scale: float
    active: bool = True

    @cached_property
    def delta(self) -> Tensor:
        return self.cond - self.uncond

    @property
    def latent(self) -> Grid:
        """Size of the latent, its frames one below the other."""
        return Grid(self.frames * self.cond.shape[-2], self.cond.shape[-1], self.frames)

    @property
    def frames(self) -> int:
        return self.cond.shape[2] if self.cond.ndim == 5 else 1

    def folded(self) -> "Predictions":
        """The same with the frames one below the other, (B, C, T·H, W)."""
        if self.cond.ndim == 4:
            return self
        signal, noise = (_fold(part) for part in (self.noise.signal, self.noise.noise))
        x, cond, uncond = (rearrange(part, FOLD) for part in (self.x, self.cond, self.uncond))
        return replace(self, x=x, cond=cond, uncond=uncond, noise=replace(self.noise, signal=signal, noise=noise))


ALL_PATCHES = "all patches"
"""What owns everything where regions are patches of the latent."""

FOLD = "b c t h w -> b c (t h) w"


def _fold(level: Tensor | float) -> Tensor | float:
    return rearrange(level, FOLD) if isinstance(level, Tensor) and level.ndim == 5 else level


class Session:
    """State of one run into `run`: the one object through which a host reaches the core.

    settings      the method's constants.
    collection    how maps are collected.
    word_weights  word or phrase of the prompts, or label → factor ≥ 0 on the guidance of its region.
    recorded      called with every evaluation's record, whose tensors are still on the device.
    resegment     gives what replaces every fresh segmentation: regions of the caller's own, on its grid.
    by_magnitude  whether evaluations without maps are guided by the magnitude of the guidance (`method.magnitude`).
    """

    def __init__(
        self,
        settings: Settings,
        collection: Collection,
        run: Run,
        *,
        word_weights: Mapping[str, float] | Mapping[int, float] | None = None,
        recorded: Callable[[Evaluation], None] | None = None,
        resegment: Callable[[Segmentation], Segmentation] | None = None,
        by_magnitude: bool = False,
    ) -> None:
        self.settings = collection.applied_to(settings)
        self.collection = collection
        self.run = run
        self.observing = False
        """Whether the attention of the evaluation under way is wanted."""
        self._word_weights = dict(word_weights or {})
        self._recorded = recorded
        self._resegment = resegment
        self._by_magnitude = by_magnitude
        self._unobserved: frozenset[Hashable] = frozenset()
        self._collector = Collector(self.settings, collection.budget_mib)
        self._given_up = False
        self._lock = threading.Lock()
        self._last: Segmentation | None = None
        self._last_latent: Grid | None = None
        self._index = -1

    def begin(self, prompts: Mapping[Key, Prompt]) -> bool:
        """Start an evaluation of these prompts; False where its attention need not be observed."""
        self._index += 1
        self._unobserved = frozenset(key for key, prompt in prompts.items() if _says_nothing(prompt))
        self._collector.begin(prompts)
        self.observing = not self._given_up and self._index % self.collection.every == 0
        return self.observing

    @guarded
    def observe(self, call: LayerCall) -> None:
        """Take one call of an attention layer; nothing of it is needed after the evaluation."""
        wanted = call.of_prompts(self.needs_maps) if self.observing else None
        if wanted is not None:
            self._collector.observe(wanted)

    def needs_maps(self, prompt: Hashable) -> bool:
        """Whether the attention to a prompt is of use: without START an unconditional one is not."""
        return prompt not in self._unobserved

    def skip_layer(self, layer: str) -> None:
        """Leave a layer out of this evaluation: another node changes what it attends to."""
        self._collector.skip(layer)

    @guarded
    def ratio(
        self,
        predictions: Predictions,
        cond: Sequence[Placement],
        uncond: Sequence[Placement],
        preview: Callable[[Tensor | None], Tensor] | None = None,
    ) -> Tensor | None:
        """r (B, 1, H, W), or (B, 1, T, H, W), for this evaluation, or None for plain CFG; records it either way.

        cond, uncond  where the prompts act; the same prompts in the same order at every evaluation of a run.
        preview       from r to the predicted image, (B, 3, ≤256, ≤256) uint8.
        """
        if self._given_up:
            return None
        self._end_observing()
        folded = predictions.folded()
        segmentation, fresh = self._segmentation(folded, predictions.latent, cond, uncond)
        if segmentation is None:
            return self._magnitude(predictions, preview) if self._by_magnitude else None
        return self._guide(predictions, segmentation, self.settings, fresh, preview)

    @guarded
    def ratio_by_magnitude(
        self, predictions: Predictions, preview: Callable[[Tensor | None], Tensor] | None = None
    ) -> Tensor | None:
        """r for an evaluation whose attention cannot be observed (`method.magnitude`); records it."""
        return None if self._given_up else self._magnitude(predictions, preview)

    def _magnitude(
        self, predictions: Predictions, preview: Callable[[Tensor | None], Tensor] | None
    ) -> Tensor | None:
        cond = predictions.cond
        segmentation = magnitude_patches(len(cond), predictions.latent, cond.device)
        self.run.prompts = self.run.prompts or [Prompt("cond", ("word",), (ALL_PATCHES,), (0,))]
        self.run.facts = Facts(layers=0, grids=(segmentation.grid,), tokens=0, prompts=0, by_magnitude=True)
        return self._guide(predictions, segmentation, magnitude_settings(self.settings), True, preview)

    def _guide(
        self,
        predictions: Predictions,
        segmentation: Segmentation,
        settings: Settings,
        fresh: bool,
        preview: Callable[[Tensor | None], Tensor] | None,
    ) -> Tensor | None:
        """The ratio map of a segmentation, recorded."""
        folded, ratio, shaped = predictions.folded(), None, None
        if predictions.active and settings.strength > 0:
            scale, frames = predictions.guidance_scale, predictions.frames
            weights = {} if settings.regions == "patch" and self._by_magnitude else self._weights_by_label()
            ratio = shaped = ratio_map(folded.delta, segmentation, settings, scale, weights, frames)
            if predictions.cond.ndim == 5:
                shaped = rearrange(ratio, "b one (t h) w -> b one t h w", t=frames)
        try:
            image = None if preview is None else preview(shaped)
            self._record(folded, segmentation, ratio, fresh, image)
        except Exception as error:  # the guidance does not depend on its record
            logging.exception("S-CFG could not record an evaluation", exc_info=error)
            self.run.note(Note.UNRECORDED)
        return shaped

    def end_batch(self) -> None:
        """The model ran all rows of this evaluation: what still waits for its cross-attention is dropped."""
        self.observing = False
        self._collector.drop_pending()

    def end_evaluation(self) -> None:
        """Nothing of the evaluation's maps is needed any more."""
        self.observing = False
        self._collector.begin({})

    def give_up(self, error: Exception) -> None:
        """Plain CFG for the rest of the run, noted once: S-CFG ran out of memory, or has a bug."""
        with self._lock:
            if self._given_up:  # another thread's layer was under way when the first one gave up
                return
            self._given_up = True
        self.end_evaluation()
        self._last = None
        if isinstance(error, CollectorOutOfMemory) or is_out_of_memory(error):
            self.run.note(Note.OUT_OF_MEMORY)
        else:
            logging.exception("S-CFG: internal error", exc_info=error)
            self.run.note(Note.INTERNAL_ERROR, error=error)

    def _end_observing(self) -> None:
        self.observing = False
        if self._collector.skipped:
            self.run.note(Note.LAYER_SKIPPED)

    def _segmentation(
        self, predictions: Predictions, latent: Grid, cond: Sequence[Placement], uncond: Sequence[Placement]
    ) -> tuple[Segmentation | None, bool]:
        """This evaluation's segmentation, else the last one that fits, else None; and whether it is fresh."""
        images = len(predictions.cond)
        self.run.prompts = [self._collector.prompt(place.prompt) for place in cond]
        with_maps = self._with_maps(cond)
        if with_maps:
            positive = [self._entry(place, self._collector.token_maps, predictions) for place in with_maps]
            negative = [
                self._entry(place, self._collector.foreground_maps, predictions)
                for place in self._with_maps(uncond)
            ]
            segmentation = segment_entries(positive, negative, self.settings, latent)
            if not any(self._collector.prompt(place.prompt).start_tokens for place in uncond):
                segmentation = replace(segmentation, has_foreground=None)  # there is no START to say anything
            if self._resegment is not None:
                segmentation = self._resegment(segmentation)
            self.run.facts = self._facts(cond)
            self.run.add_scores(segmentation)
            self._last, self._last_latent = replace(segmentation, scores=None), latent
            return segmentation, True
        if self._last is not None and (len(self._last.labels), self._last_latent) == (images, latent):
            if self._index % self.collection.every == 0:
                self.run.note(Note.REUSED)
            return self._last, False
        self.run.note(Note.NO_MAPS)
        return None, False

    def _with_maps(self, places: Sequence[Placement]) -> list[Placement]:
        return [place for place in places if place.active and self._collector.layers_seen(place.prompt) > 0]

    def _entry(
        self, place: Placement, maps: Callable[[Hashable], TokenMaps], predictions: Predictions
    ) -> EntryMaps:
        tokens = maps(place.prompt)
        tokens = replace(tokens, values=tokens.values.to(predictions.cond.device))
        return EntryMaps(tokens, self._collector.prompt(place.prompt), place.area, place.weight)

    def _facts(self, cond: Sequence[Placement]) -> Facts:
        return Facts(
            layers=max(self._collector.layers_seen(place.prompt) for place in cond),
            grids=self._collector.grids_seen(),
            tokens=sum(self._collector.prompt(place.prompt).num_tokens for place in cond),
            prompts=len(cond),
        )

    def _weights_by_label(self) -> dict[int, float]:
        weights: dict[int, float] = {}
        for word, weight in self._word_weights.items():
            labels = (word,) if isinstance(word, int) else labels_of(word, self.run.prompts)
            if not labels:
                self.run.note(Note.UNKNOWN_WORD, word=word)
            weights |= dict.fromkeys(labels, weight)
        return weights

    def _record(
        self,
        predictions: Predictions,
        segmentation: Segmentation,
        ratio: Tensor | None,
        fresh: bool,
        preview: Tensor | None,
    ) -> None:
        grid, noise = segmentation.grid, predictions.noise
        unit = noise.epsilon_unit
        norm = guidance_norm(predictions.delta) * (unit[:, 0] if isinstance(unit, Tensor) else unit)
        self.run.add_flags(segmentation, norm)
        applied = torch.ones_like(norm) if ratio is None else ratio[:, 0]
        soft = segmentation.scores if self.collection.soft_maps and fresh else None
        evaluation = Evaluation(
            index=self._index,
            sigma=predictions.sigma,
            guidance_scale=predictions.guidance_scale,
            labels=_compact(segmentation),
            foreground=segmentation.foreground,
            classifier=patch_mean(norm, grid),
            rescaled=patch_mean(norm * applied, grid),
            diffusion=patch_mean(guidance_norm(noise.epsilon(predictions.x, predictions.uncond)), grid),
            ratio=patch_mean(applied, grid),
            fresh=fresh,
            preview=preview,
            soft=None if soft is None else soft.half(),
            soft_labels=() if soft is None else segmentation.score_labels,
        )
        self.run.add(evaluation)
        if self._recorded is not None:
            self._recorded(evaluation)


def _says_nothing(prompt: Prompt) -> bool:
    """An unconditional prompt without START tells no foreground (Eq. 14)."""
    return prompt.branch == "uncond" and not prompt.start_tokens


def _compact(segmentation: Segmentation) -> Tensor:
    """Labels in the smallest integers that hold them."""
    fits = segmentation.num_labels is not None and segmentation.num_labels <= torch.iinfo(torch.int16).max
    return segmentation.labels.to(torch.int16 if fits else torch.int32)
