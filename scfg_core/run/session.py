"""One sampling run, host-neutral: what to do at each evaluation with whatever maps there are.

    begin → observe, observe, … → ratio (segmentation, Eq. 13, record) → end_evaluation → begin → …

A host says which rows belong to which prompt and where a prompt acts; everything else about a run is decided here:
reusing labels where an evaluation has no maps, giving up after running out of memory, and recording.
"""

import logging
import threading
from collections.abc import Callable, Container, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from einops import rearrange
from torch import Tensor

from ..collect.budget import CollectorOutOfMemory, is_out_of_memory
from ..collect.calls import Key, LayerCall
from ..collect.collector import Collector
from ..grid import Grid
from ..method.guidance import guidance_norm, ratio_of_norm
from ..method.segment import Segmentation, segment_entries
from ..method.settings import Settings
from ..prompt import Prompt
from .collection import Collection
from .evaluation import Observation
from .guard import guarded
from .magnitude import magnitude_patches, magnitude_settings
from .notes import Note
from .placed import PlacedMaps
from .predictions import Placement, Predictions
from .record import Facts, Run
from .weighting import Weighting
from .weights import WordWeights

ALL_PATCHES = "all patches"
"""What owns everything where regions are patches of the latent."""


class Session:
    """State of one run into `run`: the one object through which a host reaches the core.

    settings      the method's constants.
    collection    how maps are collected.
    word_weights  factors on the guidance of what words stand for (`run.weights`).
    recorded      called with every evaluation's record, whose tensors are still on the device.
    resegment     gives what replaces every fresh segmentation: regions of the caller's own, on its grid.
    collector     of these settings; None = one as the collection says.
    by_magnitude  whether evaluations without maps are guided by the magnitude of the guidance (`run.magnitude`).
    """

    def __init__(
        self,
        settings: Settings,
        collection: Collection,
        run: Run,
        *,
        word_weights: WordWeights | Mapping[str, float] | Mapping[int, float] | None = None,
        recorded: Callable[[Observation], None] | None = None,
        resegment: Callable[[Segmentation], Segmentation] | None = None,
        collector: Collector | None = None,
        by_magnitude: bool = False,
    ) -> None:
        self.settings = collection.applied_to(settings)
        self.collection = collection
        self.run = run
        self.observing = False
        """Whether the attention of the evaluation under way is wanted."""
        run.min_region = settings.min_region
        self._weighting = Weighting(WordWeights.of(word_weights), run)
        self._recorded = recorded
        self._resegment = resegment
        self._by_magnitude = by_magnitude
        self.acting: Sequence[Tensor] = ()
        """Masks (B, T·H, W) that follow words and act in the evaluation under way, for its record."""
        self._unobserved: frozenset[Hashable] = frozenset()
        self._collector = collector or Collector(self.settings, collection.budget_mib)
        self._maps = PlacedMaps(self._collector)
        self._given_up = False
        self._lock = threading.Lock()
        self._last: Segmentation | None = None
        self._scores: Tensor | None = None
        self._last_latent: Grid | None = None
        self._index = -1

    def begin(self, prompts: Mapping[Key, Prompt], only: Container[Hashable] | None = None) -> bool:
        """Start an evaluation of these prompts; False where its attention need not be observed.

        only: the prompts whose attention is of use; None = all of them.
        """
        self._index += 1
        self._unobserved = frozenset() if only is None else frozenset(key for key in prompts if key not in only)
        self._collector.begin({})
        self.declare(prompts)
        self.observing = not self._given_up and self._index % self.collection.every == 0
        return self.observing

    def declare(self, prompts: Mapping[Key, Prompt]) -> None:
        """More prompts of this evaluation: a host that runs one forward after another learns of them in turn."""
        self._unobserved |= {key for key, prompt in prompts.items() if _separates_nothing(prompt)}
        self._collector.declare(prompts)

    @guarded
    def observe(self, call: LayerCall) -> None:
        """Take one call of an attention layer; nothing of it is needed after the evaluation."""
        wanted = call.of_prompts(self.needs_maps) if self.observing and self._unobserved else call
        if self.observing and wanted is not None:
            self._collector.observe(wanted)

    def needs_maps(self, prompt: Hashable) -> bool:
        """Whether the attention to a prompt is of use: without START an unconditional one is not."""
        return prompt not in self._unobserved

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
        preview: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | None:
        """r (B, 1, H, W), or (B, 1, T, H, W), for this evaluation, or None for plain CFG; records it either way.

        cond, uncond  where the prompts act; the same prompts in the same order at every evaluation of a run.
        preview       from guided predictions (N, C, …) to images, (N, 3, ≤256, ≤256) uint8.
        """
        if self._given_up:
            return None
        self.stop_observing()
        self._note_skipped()
        segmentation, fresh = self._segmentation(predictions.folded(), predictions.latent, cond, uncond)
        if segmentation is None:
            return self._magnitude(predictions, preview) if self._by_magnitude else None
        return self._guide(predictions, segmentation, self.settings, fresh, preview)

    @guarded
    def ratio_by_magnitude(
        self, predictions: Predictions, preview: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor | None:
        """r for an evaluation whose attention cannot be observed (`run.magnitude`); records it."""
        return None if self._given_up else self._magnitude(predictions, preview)

    def regions_of(self, places: Sequence[Placement], latent: Grid, device: torch.device) -> Segmentation | None:
        """This evaluation's regions as if there were no prompts but these; None where none of them has maps."""
        seen = self._maps.seen(places)
        if self._given_up or not seen:
            return None
        return segment_entries(self._maps.tokens(seen, device), [], self.settings, latent)

    def _magnitude(self, predictions: Predictions, preview: Callable[[Tensor], Tensor] | None) -> Tensor | None:
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
        preview: Callable[[Tensor], Tensor] | None,
    ) -> Tensor | None:
        """The ratio map of a segmentation, recorded."""
        folded, ratio, shaped = predictions.folded(), None, None
        norm, frames = guidance_norm(folded.delta), predictions.frames
        by_magnitude = settings.regions == "patch" and self._by_magnitude
        if predictions.active and settings.strength > 0:
            scale = predictions.guidance_scale
            factors = None if by_magnitude else self._weighting.factors(predictions.within, norm.dtype)
            ratio = shaped = ratio_of_norm(norm, segmentation, settings, scale, factors, frames)
            if predictions.cond.ndim == 5:
                shaped = rearrange(ratio, "b one (t h) w -> b one t h w", t=frames)
        try:
            guided = partial(predictions.guided, shaped)
            self._record(folded, segmentation, norm, ratio, fresh, guided, preview)
        except Exception as error:  # the guidance does not depend on its record
            logging.exception("S-CFG could not record an evaluation", exc_info=error)
            self.run.note(Note.UNRECORDED)
        return shaped

    @guarded
    def end_call(self) -> None:
        """A call of the model is over: none of its tensors is needed any more."""
        if self.observing:
            self._collector.catch_up()

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
        self, predictions: Predictions, latent: Grid, cond: Sequence[Placement], uncond: Sequence[Placement]
    ) -> tuple[Segmentation | None, bool]:
        """This evaluation's segmentation, else the last one that fits, else None; and whether it is fresh."""
        images = predictions.cond.shape[0]
        self.run.prompts = [self._collector.prompt(place.prompt) for place in cond]
        active = [place for place in cond if place.active]
        if active and active == self._maps.seen(cond):
            device = predictions.cond.device
            positive = self._maps.tokens(active, device)
            negative = self._maps.foregrounds(self._maps.seen(uncond), device)
            segmentation = segment_entries(positive, negative, self.settings, latent)
            if not self._maps.have_start(uncond):
                segmentation = replace(segmentation, has_foreground=None)  # there is no START to say anything
            if self._resegment is None:
                self._weighting.segmented(segmentation, self.run.prompts)
            else:
                segmentation = self._resegment(segmentation)
                self._weighting.segmented(replace(segmentation, scores=None), self.run.prompts)
            self.run.facts = self._maps.facts(cond)
            self._scores = segmentation.scores
            self.run.add_scores(segmentation)
            self._last, self._last_latent = replace(segmentation, scores=None), latent
            return self._last, True
        if self._last is not None and (self._last.labels.shape[0], self._last_latent) == (images, latent):
            if self._index % self.collection.every == 0:
                self.run.note(Note.REUSED)
            return self._last, False
        self.run.note(Note.NO_MAPS)
        return None, False

    def _record(
        self,
        predictions: Predictions,
        segmentation: Segmentation,
        norm: Tensor,
        ratio: Tensor | None,
        fresh: bool,
        guided: Callable[[], Tensor],
        preview: Callable[[Tensor], Tensor] | None,
    ) -> None:
        scores = self._scores if self.collection.soft_maps and fresh else None
        observation = Observation(
            index=self._index,
            sigma=predictions.sigma,
            guidance_scale=predictions.guidance_scale,
            segmentation=segmentation,
            norm=norm,
            noise=predictions.noise,
            uncond=predictions.noise.undivided_epsilon(predictions.x, predictions.uncond),
            ratio=ratio,
            fresh=fresh,
            guided=guided,
            preview=preview,
            soft=None if scores is None else scores.half(),
            followed=tuple(self.acting),
        )
        self.run.add(observation)
        if self._recorded is not None:
            self._recorded(observation)


def _separates_nothing(prompt: Prompt) -> bool:
    """An unconditional prompt without START does not separate the foreground (Eq. 14)."""
    return prompt.branch == "uncond" and not prompt.start_tokens
