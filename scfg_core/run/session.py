"""One sampling run, host-neutral: what to do at each evaluation with whatever maps there are.

    begin → observe, observe, … → ratio (segmentation, Eq. 13, record) → end_evaluation → begin → …

A host says which rows belong to which prompt and where a prompt acts; everything else about a run is decided here:
reusing labels where an evaluation has no maps, giving up after running out of memory, and recording.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import get_args

from torch import Tensor

from ..collect.budget import CollectorOutOfMemory, is_out_of_memory
from ..collect.calls import Key, LayerCall
from ..collect.collector import Collector
from ..collect.layers import LayerChoice
from ..errors import SettingsError
from ..grid import Grid
from ..method.entries import Area, EntryMaps
from ..method.fusion import TokenMaps
from ..method.guidance import guidance_norm, ratio_of_norm
from ..method.segment import Segmentation, segment_entries
from ..method.settings import Settings
from ..prompt import Prompt
from .guard import guarded
from .noise import NoiseLevel
from .notes import Note
from .record import Facts, Observation, Run
from .words import labels_of


@dataclass(frozen=True)
class Collection:
    """How maps are collected, whatever is done with them.

    power_weights  weights of S⁰, S¹, …; None = those of the settings.
    layers         of the two deepest levels with attention: "all", the "last" three of each level,
                   or "auto": all where a level has at most six, else its last three.
    budget_mib     most that the self-attention maps of a layer may take, MiB, > 0; None = 256 on a CPU, a twelfth
                   of a GPU's memory (256 … 2048).
    every          collect at every k-th evaluation, 1…100; between them the last labels serve.
    soft_maps      keep Ĉ of every evaluation (fp16, h·w·L numbers per evaluation).

    Raises `SettingsError` for a value outside its range.
    """

    power_weights: tuple[float, ...] | None = None
    layers: LayerChoice = "auto"
    budget_mib: float | None = None
    every: int = 1
    soft_maps: bool = False

    def __post_init__(self) -> None:
        choices = get_args(LayerChoice)
        if self.layers not in choices:
            raise SettingsError(f"expected layers of {', '.join(choices)}, got {self.layers!r}: choose one")
        if self.budget_mib is not None and not self.budget_mib > 0:
            raise SettingsError(f"expected budget_mib > 0, got {self.budget_mib}: None leaves it to the device")
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

    x, cond, uncond  (B, C, H, W): what went into the model, and what it made of it with either prompt.
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
        return Grid(self.cond.shape[2], self.cond.shape[3])

    def guided(self, ratio: Tensor | None) -> Tensor:
        """The guided prediction (B, C, H, W), for a preview: Eq. 12, or Eq. 7 where r is None."""
        delta = self.delta if ratio is None else self.delta * ratio
        return self.uncond + self.guidance_scale * delta


class Session:
    """State of one run into `run`: the one object through which a host reaches the core.

    settings      the method's constants.
    collection    how maps are collected.
    word_weights  word or phrase of the prompts, or label → factor ≥ 0 on the guidance of its region.
    recorded      called with every evaluation's record, whose tensors are still on the device.
    resegment     gives what replaces every fresh segmentation: regions of the caller's own, on its grid.
    collector     of these settings; None = one as the collection says.
    """

    def __init__(
        self,
        settings: Settings,
        collection: Collection,
        run: Run,
        *,
        word_weights: Mapping[str, float] | Mapping[int, float] | None = None,
        recorded: Callable[[Observation], None] | None = None,
        resegment: Callable[[Segmentation], Segmentation] | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.settings = collection.applied_to(settings)
        self.collection = collection
        self.run = run
        self.observing = False
        """Whether the attention of the evaluation under way is wanted."""
        self._word_weights = dict(word_weights or {})
        self._recorded = recorded
        self._resegment = resegment
        self._collector = collector or Collector(self.settings, collection.budget_mib)
        self._given_up = False
        self._lock = threading.Lock()
        self._last: Segmentation | None = None
        self._last_latent: Grid | None = None
        self._index = -1

    def begin(self, prompts: Mapping[Key, Prompt]) -> bool:
        """Start an evaluation of these prompts; False where its attention need not be observed."""
        self._index += 1
        self._collector.begin(prompts)
        self.observing = not self._given_up and self._index % self.collection.every == 0
        return self.observing

    @guarded
    def observe(self, call: LayerCall) -> None:
        """Take one call of an attention layer; nothing of it is needed after the evaluation."""
        if self.observing:
            self._collector.observe(call)

    def skip_layer(self, layer: str, prompts: Iterable[Hashable]) -> None:
        """Leave a layer of these prompts out of this evaluation: another node changes what it attends to."""
        self._collector.skip(layer, prompts)

    def stop_observing(self) -> None:
        """The rest of this evaluation's attention is not wanted."""
        self.observing = False

    @guarded
    def ratio(
        self,
        predictions: Predictions,
        cond: Sequence[Placement],
        uncond: Sequence[Placement],
        preview: Callable[[Tensor | None], Tensor] | None = None,
    ) -> Tensor | None:
        """r (B, 1, H, W) for this evaluation, or None for plain CFG; records it either way.

        cond, uncond  where the prompts act; the same prompts in the same order at every evaluation of a run.
        preview       from r to the predicted image, (B, 3, ≤256, ≤256) uint8.
        """
        if self._given_up:
            return None
        self.stop_observing()
        self._note_skipped()
        segmentation, fresh = self._segmentation(predictions, cond, uncond)
        if segmentation is None:
            return None
        norm, ratio = guidance_norm(predictions.delta), None
        weights = self._weights_by_label()
        if predictions.active and self.settings.strength > 0:
            ratio = ratio_of_norm(norm, segmentation, self.settings, predictions.guidance_scale, weights)
        try:
            shown = None if preview is None else partial(preview, ratio)
            self._record(predictions, segmentation, norm, ratio, fresh, shown)
        except Exception as error:  # the guidance does not depend on its record
            logging.exception("S-CFG could not record an evaluation", exc_info=error)
            self.run.note(Note.UNRECORDED)
        return ratio

    def end_batch(self) -> None:
        """The model ran all rows of this evaluation: what still waits for its cross-attention is dropped."""
        self.stop_observing()
        self._note_skipped()
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

    def _note_skipped(self) -> None:
        if self._collector.skipped:
            self.run.note(Note.LAYER_SKIPPED)

    def _segmentation(
        self, predictions: Predictions, cond: Sequence[Placement], uncond: Sequence[Placement]
    ) -> tuple[Segmentation | None, bool]:
        """This evaluation's segmentation, else the last one that fits, else None; and whether it is fresh."""
        latent, images = predictions.latent, len(predictions.cond)
        self.run.prompts = [self._collector.prompt(place.prompt) for place in cond]
        active, with_maps = [place for place in cond if place.active], self._with_maps(cond)
        if active and active == with_maps:
            positive = [self._entry(place, self._collector.token_maps, predictions) for place in active]
            negative = [
                self._entry(place, self._collector.foreground_maps, predictions)
                for place in self._with_maps(uncond)
            ]
            segmentation = segment_entries(positive, negative, self.settings, latent)
            if uncond and not any(self._collector.prompt(place.prompt).start_tokens for place in uncond):
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
            backend=self._collector.backend or "pytorch",
        )

    def _weights_by_label(self) -> dict[int, float]:
        weights: dict[int, float] = {}
        for word, weight in self._word_weights.items():
            labels = labels_of(word, self.run.prompts) if isinstance(word, str) else (int(word),)
            if not labels:
                self.run.note(Note.UNKNOWN_WORD, word=word)
            weights |= dict.fromkeys(labels, weight)
        return weights

    def _record(
        self,
        predictions: Predictions,
        segmentation: Segmentation,
        norm: Tensor,
        ratio: Tensor | None,
        fresh: bool,
        preview: Callable[[], Tensor] | None,
    ) -> None:
        epsilon = predictions.noise.undivided_epsilon(predictions.x, predictions.uncond)
        soft = segmentation.scores if self.collection.soft_maps and fresh else None
        observation = Observation(
            index=self._index,
            sigma=predictions.sigma,
            guidance_scale=predictions.guidance_scale,
            segmentation=replace(segmentation, scores=None),
            norm=norm,
            noise=predictions.noise,
            uncond_norm=guidance_norm(epsilon),
            ratio=ratio,
            fresh=fresh,
            preview=preview,
            soft=None if soft is None else soft.half(),
        )
        self.run.add(observation)
        if self._recorded is not None:
            self._recorded(observation)
