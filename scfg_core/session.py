"""One sampling run, host-neutral: what to do at each evaluation with whatever maps there are.

    begin → the host's attention feeds `collector` → `ratio` (segmentation, Eq. 13, record) → … → finish

A host decides which rows belong to which prompt entry and where an entry speaks; everything else about a run is
decided here: reusing labels when an evaluation has no maps, giving up after running out of memory, and recording.
"""

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from .collector import DEFAULT_BUDGET_MIB, Collector, CollectorOutOfMemory, Entry, is_out_of_memory
from .entries import Area, EntryMaps
from .errors import SettingsError, expect
from .fusion import TokenMaps
from .grid import Grid, patch_mean
from .guidance import guidance_norm, ratio_map
from .layers import LayerChoice
from .segmentation import Segmentation, segment_entries
from .settings import Settings
from .trace import Evaluation, Run

NO_MAPS = "no attention was seen: plain CFG"
REUSED = "some evaluations brought no attention maps: the last labels were used"
UNRECORDED = "an evaluation could not be recorded: the views leave it out (the log says why)"
OUT_OF_MEMORY = "S-CFG's own part ran out of memory: plain CFG from there on"


@dataclass(frozen=True)
class Collection:
    """How maps are collected, whatever is done with them.

    power_weights  weights of S⁰, S¹, …; None = those of the settings.
    layers         of the two deepest levels with attention: "all", the "last" three of each level,
                   or "auto": all where a level has at most six, else its last three.
    budget_mib     most that one layer may take beyond its own tensors, MiB, > 0.
    every          collect at every k-th evaluation, 1…100; between them the last labels serve.
    soft_maps      keep Ĉ of every evaluation (fp16, h·w·L numbers each).
    """

    power_weights: tuple[float, ...] | None = None
    layers: LayerChoice = "auto"
    budget_mib: float = DEFAULT_BUDGET_MIB
    every: int = 1
    soft_maps: bool = False

    def __post_init__(self) -> None:
        choices = get_args(LayerChoice)
        expect(self.layers in choices, SettingsError, f"layers of {', '.join(choices)}", self.layers, "choose one")
        expect(self.budget_mib > 0, SettingsError, "budget_mib > 0", self.budget_mib, "the default is 256")
        expect(1 <= self.every <= 100, SettingsError, "every from 1 to 100", self.every, "1 collects every time")

    def applied_to(self, settings: Settings) -> Settings:
        """The settings, with this collection's power weights where it has some."""
        return settings if self.power_weights is None else replace(settings, power_weights=self.power_weights)


@dataclass(frozen=True)
class Placement:
    """Where a prompt entry speaks in the picture, see `EntryMaps`; or that it is `silent` at this evaluation."""

    entry: Hashable
    area: Area | None = None
    weight: Tensor | None = None
    silent: bool = False


@dataclass(frozen=True)
class Moment:
    """An evaluation: its noise level, its γ, and whether S-CFG acts in this part of the schedule."""

    sigma: Tensor | float
    guidance_scale: float
    acts: bool = True


class Session:
    """State of one run: feed `collector` between `begin` and `ratio`, once per evaluation."""

    def __init__(
        self,
        settings: Settings,
        collection: Collection,
        run: Run,
        recorded: Callable[[Evaluation], None] | None = None,
        resegment: Callable[[Segmentation], Segmentation] | None = None,
    ) -> None:
        """State of a run into `run`.

        recorded   is called with every evaluation's record, whose tensors are still on the device.
        resegment  gives what takes the place of every fresh segmentation: regions of one's own, on its grid.
        """
        self._recorded = recorded
        self._resegment = resegment
        self.settings = collection.applied_to(settings)
        self.collection = collection
        self.run = run
        self.collector = Collector(self.settings, collection.budget_mib)
        self.exhausted = False
        self._lock = threading.Lock()
        self._entries: dict[Hashable, Entry] = {}
        self._last: Segmentation | None = None
        self._last_latent: Grid | None = None
        self._index = -1

    def begin(self, entries: Mapping[Any, Entry]) -> bool:
        """Start an evaluation of these entries; False where its attention need not be observed."""
        self._index += 1
        self._entries = dict(entries)
        self.collector.begin(entries)
        return not self.exhausted and self._index % self.collection.every == 0

    def give_up(self, error: Exception) -> None:
        """Plain CFG for the rest of the run, said once: our own part ran out of memory, or into a mistake of ours.

        The picture is the user's; no error of ours may end its making.
        """
        with self._lock:
            if self.exhausted:  # another thread's layer was under way when the first one gave up
                return
            self.exhausted = True
        self.collector.begin({})
        self._last = None
        if isinstance(error, CollectorOutOfMemory) or is_out_of_memory(error):
            self.run.note(OUT_OF_MEMORY)
        else:
            logging.exception("S-CFG met an error of its own", exc_info=error)
            self.run.note(f"an error of S-CFG's own, plain CFG from there on; please report it: {error!r}")

    def ratio(
        self,
        delta: Tensor,
        epsilon_uncond: Tensor,
        moment: Moment,
        cond: Sequence[Placement],
        uncond: Sequence[Placement],
        *,
        epsilon_unit: Tensor | float = 1.0,
        word_weights: Mapping[int, float] | None = None,
        preview: Callable[[Tensor | None], Tensor] | None = None,
    ) -> Tensor | None:
        """r (B, 1, H, W) for this evaluation, or None for plain CFG; records it either way.

        delta           difference of the two predictions (B, C, H, W), in whatever terms the host has.
        epsilon_uncond  ε(x, ∅) (B, C, H, W); epsilon_unit: what brings delta to ε units (1/σ for x0 terms).
        cond, uncond    where each entry speaks; the same entries in the same order at every evaluation of a run.
        preview         from r to the predicted picture, (B, 3, ≤256, ≤256) uint8.
        """
        if self.exhausted:
            return None
        try:
            segmentation, fresh = self._segmentation(delta, cond, uncond)
            if segmentation is None:
                return None
            ratio = None
            if moment.acts and self.settings.strength > 0:
                ratio = ratio_map(delta, segmentation, self.settings, moment.guidance_scale, word_weights)
        except Exception as error:
            self.give_up(error)
            return None
        try:
            negative = self._negative_labels(delta, uncond) if fresh and self.collection.soft_maps else None
            picture = None if preview is None else preview(ratio)
            self._record(delta, epsilon_uncond, epsilon_unit, moment, segmentation, ratio, fresh, picture, negative)
        except Exception as error:  # the guidance does not depend on its record
            logging.exception("S-CFG could not record an evaluation", exc_info=error)
            self.run.note(UNRECORDED)
        return ratio

    def end_evaluation(self) -> None:
        """Nothing of the evaluation's maps is needed any more."""
        self.collector.begin({})

    def _segmentation(
        self, delta: Tensor, cond: Sequence[Placement], uncond: Sequence[Placement]
    ) -> tuple[Segmentation | None, bool]:
        """This evaluation's segmentation, else the last one that fits, else None; and whether it is fresh."""
        latent = Grid(delta.shape[2], delta.shape[3])
        speaking = [place for place in cond if not place.silent]
        if speaking and all(self.collector.layers_seen(place.entry) for place in speaking):
            heard = [place for place in uncond if self._hears(place)]
            segmentation = segment_entries(
                self._prompt(cond, delta),
                [self._entry_maps(place, self.collector.foreground_maps(place.entry), delta) for place in heard],
                self.settings,
                latent,
            )
            if self._resegment is not None:
                segmentation = self._resegment(segmentation)
            self.run.watch(segmentation)
            self._sum_tokens(segmentation)
            self._last, self._last_latent = replace(segmentation, scores=None), latent
            return segmentation, True
        if self._last is not None and (len(self._last.labels), self._last_latent) == (len(delta), latent):
            if self._index % self.collection.every == 0:
                self.run.note(REUSED)
            return self._last, False
        self.run.note(NO_MAPS)
        return None, False

    def _negative_labels(self, delta: Tensor, uncond: Sequence[Placement]) -> Tensor | None:
        """Which word of the negative prompt each patch attends to (B, h, w), where its tokens were kept."""
        kept = [place for place in uncond if self._entries[place.entry].branch == "both"]
        if not any(self._hears(place) for place in kept):
            return None
        latent = Grid(delta.shape[2], delta.shape[3])
        return _compact(segment_entries(self._prompt(kept, delta), [], self.settings, latent))

    def _hears(self, place: Placement) -> bool:
        return not place.silent and self.collector.layers_seen(place.entry) > 0

    def _prompt(self, places: Sequence[Placement], delta: Tensor) -> list[EntryMaps]:
        """The entries of a prompt that speak; the tokens of each have the same labels at every evaluation."""
        heard, first = [], 0
        for place in places:
            if self._hears(place):
                maps = self._entry_maps(place, self.collector.token_maps(place.entry), delta)
                heard.append(replace(maps, first_label=first))
            first += self._entries[place.entry].num_tokens
        return heard

    def _entry_maps(self, place: Placement, tokens: TokenMaps, delta: Tensor) -> EntryMaps:
        tokens = replace(tokens, values=tokens.values.to(delta.device))
        return EntryMaps(tokens, self._entries[place.entry].start_tokens, place.area, place.weight)

    def _sum_tokens(self, segmentation: Segmentation) -> None:
        scores = segmentation.scores
        if scores is None:  # regions of the caller's own need not say how they came about
            return
        images = {each.shape[0] for each in self.run.token_sums.values()} or {len(scores)}
        if (self.run.token_grid, images) != (segmentation.grid, {len(scores)}):
            self.run.token_sums, self.run.token_count, self.run.token_grid = {}, 0, segmentation.grid
        for labels, own in zip(
            segmentation.scored, scores.split([*map(len, segmentation.scored)], -1), strict=True
        ):
            before = self.run.token_sums.get(labels)
            self.run.token_sums[labels] = own.clone() if before is None else before.add_(own)
        self.run.token_count += 1

    def _record(
        self,
        delta: Tensor,
        epsilon_uncond: Tensor,
        epsilon_unit: Tensor | float,
        moment: Moment,
        segmentation: Segmentation,
        ratio: Tensor | None,
        fresh: bool,
        preview: Tensor | None,
        negative: Tensor | None,
    ) -> None:
        grid = segmentation.grid
        norm = guidance_norm(delta) * epsilon_unit
        self.run.watch_predictions(norm)
        applied = torch.ones_like(norm) if ratio is None else ratio[:, 0]
        keep_soft = self.collection.soft_maps and fresh and segmentation.scores is not None
        evaluation = Evaluation(
            index=self._index,
            sigma=moment.sigma,
            guidance_scale=moment.guidance_scale,
            labels=_compact(segmentation),
            foreground=segmentation.foreground,
            classifier=patch_mean(norm, grid),
            rescaled=patch_mean(norm * applied, grid),
            diffusion=patch_mean(guidance_norm(epsilon_uncond), grid),
            ratio=patch_mean(applied, grid),
            fresh=fresh,
            preview=preview,
            negative=negative,
            soft=segmentation.scores.half() if keep_soft and segmentation.scores is not None else None,
            scored=segmentation.scored if keep_soft else (),
        )
        self.run.add(evaluation)
        if self._recorded is not None:
            self._recorded(evaluation)


def _compact(segmentation: Segmentation) -> Tensor:
    """Labels in the smallest integers that hold them."""
    fits = segmentation.num_labels is not None and segmentation.num_labels <= torch.iinfo(torch.int16).max
    return segmentation.labels.to(torch.int16 if fits else torch.int32)
