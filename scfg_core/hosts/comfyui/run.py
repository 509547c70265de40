"""One sampling run of ComfyUI: what its wrappers ask, in the order in which they are called.

    begin → guided → [watch → watched × model calls → unwatch] → the CFG slot → close_evaluation, …, finished

The evaluation's first batch of conditionings is the main one; later ones, of PAG, SAG and similar nodes, are not
recorded. Guidance acts where the host's own CFG does: see `slot`.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor

from ...method.settings import Settings
from ...prompt import Branch
from ...run.evaluation import Observation
from ...run.fingerprint import Fingerprint
from ...run.guard import guarded
from ...run.notes import Note
from ...run.record import Run
from ...run.session import Collection, Predictions, Session
from ...run.weights import WordWeights
from .follow import Following
from .levels import grid_of, is_flow, is_one, predictions_of
from .models import ModelCall, architecture_of
from .parts import Parts
from .preview import Preview
from .prompts import Key, PromptLists, PromptReader
from .slot import CfgSlot
from .status import status_line
from .watcher import Watcher, compiles_unguarded, uncompiled

KEY = "scfg"


class SamplingRun:
    """State of one run; lives in the run's own model options."""

    def __init__(
        self,
        guider: Any,
        settings: Settings,
        collection: Collection,
        word_weights: WordWeights,
        sigmas: Tensor,
        evaluated: Callable[[Run, Observation], None],
        by_magnitude: bool = False,
        following: Following | None = None,
    ) -> None:
        patcher = guider.model_patcher
        self._architecture = architecture_of(patcher.get_model_object("diffusion_model"))
        layers = self._architecture.choose_layers(collection.layers) if self._architecture else []
        self._layers = frozenset(layers)
        self._reader = PromptReader(self._architecture) if self._architecture else None
        self._inactive: Note | None = None if layers else Note.UNKNOWN_MODEL
        self._by_magnitude = by_magnitude
        self.record = Run(schedule=tuple(sigmas.detach().float().cpu().tolist()), layers=tuple(layers))
        self.session = Session(
            settings,
            collection,
            self.record,
            word_weights=word_weights,
            recorded=lambda evaluation: evaluated(self.record, evaluation),
            by_magnitude=by_magnitude,
        )
        self._guider = guider
        self._following = following
        if following is not None:
            self.record.followed = following.words
        self._preview = Preview(patcher.get_model_object("latent_format"))
        parts = {(settings.start, settings.end)} | word_weights.parts() if settings.strength > 0 else set()
        self._parts = Parts(patcher, parts | (following.parts() if following is not None else set()))
        self._flow = is_flow(patcher)
        self._set_compiler_aside = compiles_unguarded(guider.model_options)
        self._guided = False
        self._forget_evaluation()

    def __deepcopy__(self, memo: dict) -> "SamplingRun":
        """Older hosts copy the model options deeply; the run is the same one in every copy."""
        return self

    def give_up(self, error: Exception) -> None:
        self.session.give_up(error)

    def _forget_evaluation(self) -> None:
        self._noisy: Tensor | None = None
        self._prompts: PromptLists | None = None
        self._run_keys: set[Key] = set()
        self._acts = self._slot_reached = False
        self._skip_reason: Note | None = None
        self._base: int | None = None
        self.session.acting = ()

    # the evaluation, from outside in

    def begin(self, x: Tensor, sigma: Tensor) -> bool:
        """Start an evaluation of the latent x (B, C, H, W) or (B, C, T, H, W); False: S-CFG has no part in it."""
        self._forget_evaluation()
        if x.ndim not in (4, 5):
            self._inactive = Note.NOT_AN_IMAGE
            return False
        if x.ndim == 5 and self._architecture is not None and not self._architecture.takes_frames:
            self._inactive = Note.NOT_AN_IMAGE
        if self._inactive is not None and not self._by_magnitude and not self._can_follow():
            return False
        self._noisy = x
        self._assign_masks(x)
        self._parts.begin(sigma)
        settings = self.session.settings
        self._acts = settings.strength > 0 and self._parts.within(settings.start, settings.end)
        return True

    def guided(self, model_options: dict) -> dict:
        """A copy of the model options in which S-CFG takes part in the CFG."""
        return CfgSlot(self.ratio, self._acts).bound_to(model_options)

    @guarded
    def watch(self, conds: Sequence[list[dict] | None], x: Tensor, sigma: Tensor, model_options: dict) -> bool:
        """The host is about to run the conditionings `conds`; True where this is the evaluation's main batch."""
        if self._noisy is None or self._reader is None or self._prompts is not None or self._slot_reached:
            return False
        self._skip_reason = self._reason_to_skip(conds, x, model_options)
        self._base = self._followed_list(conds)
        if self._skip_reason is not None and not self._only_follows():
            return False
        self._prompts = PromptLists(conds, x, sigma, _branches(conds), self._reader)
        for index in range(len(conds)):
            self._prompts.placements(index)
        self.session.begin(self._prompts.prompts, self._base_keys(self._prompts))
        if self._prompts.ambiguous:
            self._skip(Note.AMBIGUOUS)
        return True

    def _reason_to_skip(self, conds: Sequence[list[dict] | None], x: Tensor, model_options: dict) -> Note | None:
        if self._noisy is None or x.shape != self._noisy.shape or model_options.get("context_handler") is not None:
            return Note.CONTEXT_WINDOWS
        if any(conditionings is None for conditionings in conds):
            return Note.CFG_ONE
        if len(conds) < 2:  # the other prompt runs apart from it: its attention is never seen beside this one's
            return Note.UNKNOWN_PROMPTS
        return None

    def _skip(self, reason: Note) -> None:
        self._skip_reason = reason
        self.session.stop_observing()

    def unwatch(self) -> None:
        """The host ran the conditionings."""
        self.session.end_batch()
        self._follow()

    def watching(self) -> AbstractContextManager[object]:
        """Surrounds the host's calls of the model for one batch of conditionings."""
        if not (self.session.observing and self._set_compiler_aside):
            return nullcontext()
        self.record.note(Note.UNCOMPILED)
        return uncompiled()

    @guarded
    def watched(self, x: Tensor, context: Tensor | None, options: dict, extra: Mapping[str, Any]) -> dict | None:
        """`transformer_options` of one call of the model, in which it is observed; None = as they are."""
        if not self.session.observing or self._prompts is None or self._architecture is None or context is None:
            return None
        keys: list[Key] = list(zip(options.get("cond_or_uncond", ()), options.get("uuids", ()), strict=False))
        rows = None if self._run_keys.intersection(keys) else self._prompts.rows(x, keys)
        if rows is None:
            self._skip(Note.TILED)
            return None
        self._run_keys.update(keys)
        if not any(self.session.needs_maps(key) for key in keys):
            return None
        columns = self._architecture.num_columns(context, extra)
        if any(columns % self._prompts.prompts[key].num_tokens for key in keys):
            self.record.note(Note.LAYER_SKIPPED)
            return None
        call = ModelCall(x, context, extra)
        return Watcher(self.session, self._architecture, rows, self._layers, call).bound_to(options)

    def close_evaluation(self) -> None:
        """The evaluation is over, well or not."""
        ran = self._prompts is not None or self._skip_reason is not None
        if ran and not self._slot_reached:
            self._inactive = Note.NO_CFG_FUNCTION
        self.end()

    # the CFG slot

    @guarded
    def ratio(self, args: dict) -> Tensor | None:
        """The ratio map of this evaluation from the CFG function's arguments, or None for plain CFG."""
        if self._prompts is None and self._skip_reason is None:  # another node answered without the model
            self.watch((args["input_cond"], args["input_uncond"]), args["input"], args["sigma"], {})
        self._slot_reached = True
        predictions = predictions_of(args, self._flow, self._acts, self._parts.within)
        if is_one(predictions.guidance_scale):  # SAG and others have the unconditional prediction computed anyway
            self.record.note(Note.CFG_ONE)
        sides = self._sides(args) if self._inactive is None else None
        if sides is not None and self._prompts is not None:
            cond, uncond = (self._prompts.placements(index) for index in sides)
            ratio = self.session.ratio(predictions, cond, uncond, self._preview)
        elif self._by_magnitude and args["input_uncond"] is not None:
            if self._prompts is None:
                self.session.begin({})
                self.session.end_batch()
            ratio = self.session.ratio_by_magnitude(predictions, self._preview)
        else:
            ratio = None
            self._record_unguided(predictions)
        self._guided |= ratio is not None
        return ratio

    def _sides(self, args: dict) -> tuple[int, int] | None:
        """Which of the lists that were run are the conditional and the unconditional one."""
        if self._skip_reason is not None or self._prompts is None:
            self.record.note(self._skip_reason or Note.UNKNOWN_PROMPTS)
            return None
        sides = self._prompts.sides(args["input_cond"], args["input_uncond"])
        if sides is None:
            self.record.note(Note.UNKNOWN_PROMPTS)
        return sides

    # words that a mask follows
    def _can_follow(self) -> bool:
        return self._following is not None and self._inactive in (None, Note.NO_CFG_FUNCTION)

    @guarded
    def _assign_masks(self, x: Tensor) -> None:
        if self._following is not None and self._can_follow():
            self.session.acting = self._following.assign(self._guider.conds, x)

    def _followed_list(self, conds: Sequence[list[dict] | None]) -> int | None:
        """Which of the lists has the words; None where nothing of it is needed now."""
        if self._following is None or not self._can_follow() or not self._following.wants_maps(self._parts.within):
            return None
        base = self._guider.conds[self._following.base]
        return next((index for index, conditionings in enumerate(conds) if conditionings is base), None)

    def _only_follows(self) -> bool:
        """Whether this evaluation is watched for the words' sake alone: there is no guidance to scale."""
        return self._base is not None and self._skip_reason in (Note.CFG_ONE, Note.UNKNOWN_PROMPTS)

    def _base_keys(self, prompts: PromptLists) -> set[Hashable] | None:
        """Whose attention is of use in an evaluation for the words' sake; None = all."""
        if self._base is None or not self._only_follows():
            return None
        return {place.prompt for place in prompts.base_placements(self._base)}

    @guarded
    def _follow(self) -> None:
        """The regions of the evaluation that has just run, for the next one's masks."""
        prompts = self._prompts
        if prompts is None or self._following is None or self._base is None:
            return
        if self._skip_reason is not None and not self._only_follows():
            return
        places = prompts.base_placements(self._base)
        regions = self.session.regions_of(places, grid_of(prompts.latent), prompts.latent.device)
        if regions is not None:
            described = [prompts.prompts[place.prompt] for place in places]
            self._following.update(regions, described, self._parts.within)

    def _record_unguided(self, predictions: Predictions) -> None:
        """Record the regions of an evaluation without an unconditional prediction."""
        if self._prompts is not None and self._base is not None and self._skip_reason is Note.CFG_ONE:
            alone = replace(predictions, uncond=predictions.cond, active=False)
            places = self._prompts.base_placements(self._base)
            self.session.ratio(alone, places, [], self._preview)

    # the end

    def end(self) -> None:
        """Nothing of the evaluation is needed any more, whether the run ended well or not."""
        self._forget_evaluation()
        self.session.end_evaluation()

    def finished(self, output: Tensor) -> Run:
        """The record of a run that returned the latent `output`."""
        if self._inactive is not None:
            self.record.note(self._inactive)
        if self._following is not None:
            for note in self._following.finished() if self._can_follow() else (Note.NOT_FOLLOWED,):
                self.record.note(note)
        self.record.fingerprint = Fingerprint.of(output)
        return self.record

    def status(self) -> str:
        """One line for the user, once the record is closed."""
        architecture = self._architecture
        experimental = architecture.name if architecture is not None and architecture.experimental else ""
        return status_line(self.record, self._guided, experimental)


def _branches(conds: Sequence[object]) -> tuple[Branch, ...]:
    """Of two lists the first is the positive one; which are what of three lists, the CFG function tells later."""
    return ("cond", "uncond") if len(conds) == 2 else ("both",) * len(conds)
