"""One sampling run of ComfyUI: what its wrappers ask, in the order in which they are called.

    begin → guided → [watch → watched × model calls → unwatch] → the CFG slot → close_evaluation, …, finished

The evaluation's first batch of conditionings is the main one; later ones, of PAG, SAG and similar nodes, are not
recorded. Guidance acts where the host's own CFG does: see `slot`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from ...method.settings import Settings
from ...prompt import Branch
from ...run.evaluation import Observation
from ...run.fingerprint import Fingerprint
from ...run.guard import guarded
from ...run.noise import NoiseLevel
from ...run.notes import Note
from ...run.record import Run
from ...run.session import Collection, Predictions, Session
from .models import ModelCall, architecture_of
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
        word_weights: Mapping[str, float],
        sigmas: Tensor,
        evaluated: Callable[[Run, Observation], None],
        by_magnitude: bool = False,
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
        self._preview = Preview(patcher.get_model_object("latent_format"))
        self._range = _sigma_range(patcher, settings)
        self._flow = _is_flow(patcher)
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

    # the evaluation, from outside in

    def begin(self, x: Tensor, sigma: Tensor) -> bool:
        """Start an evaluation of the latent x (B, C, H, W) or (B, C, T, H, W); False: S-CFG has no part in it."""
        self._forget_evaluation()
        if x.ndim not in (4, 5):
            self._inactive = Note.NOT_AN_IMAGE
            return False
        if x.ndim == 5 and self._architecture is not None and not self._architecture.takes_frames:
            self._inactive = Note.NOT_AN_IMAGE
        if self._inactive is not None and not self._by_magnitude:
            return False
        self._noisy = x
        self._acts = self.session.settings.strength > 0 and self._within_range(sigma)
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
        if self._skip_reason is not None:
            return False
        self._prompts = PromptLists(conds, x, sigma, _branches(conds), self._reader)
        for index in range(len(conds)):
            self._prompts.placements(index)
        self.session.begin(self._prompts.prompts)
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

    def watching(self) -> AbstractContextManager[object]:
        """Surrounds the host's calls of the model for one batch of conditionings."""
        if not (self.session.observing and self._set_compiler_aside):
            return nullcontext()
        self.record.note(Note.UNCOMPILED)
        return uncompiled()

    @guarded
    def watched(self, x: Tensor, context: Tensor | None, options: dict, extra: Mapping[str, Any]) -> dict | None:
        """`transformer_options` of one call of the model, in which its attention is observed; None = as they
        are."""
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
        if self._prompts is None and self._skip_reason is None:  # another node answered without calling the model
            self.watch((args["input_cond"], args["input_uncond"]), args["input"], args["sigma"], {})
        self._slot_reached = True
        predictions = self._predictions(args)
        if _is_one(predictions.guidance_scale):  # SAG and others have the unconditional prediction computed anyway
            self.record.note(Note.CFG_ONE)
        sides = self._sides(args) if self._inactive is None else None
        if sides is not None and self._prompts is not None:
            cond, uncond = (self._prompts.placements(index) for index in sides)
            ratio = self.session.ratio(predictions, cond, uncond, self._preview_of(predictions))
        elif self._by_magnitude and args["input_uncond"] is not None:
            if self._prompts is None:
                self.session.begin({})
                self.session.end_batch()
            ratio = self.session.ratio_by_magnitude(predictions, self._preview_of(predictions))
        else:
            ratio = None
        self._guided |= ratio is not None
        return ratio

    def _preview_of(self, predictions: Predictions) -> Callable[[Tensor | None], Tensor]:
        return lambda ratio: self._preview(predictions.guided(ratio))

    def _sides(self, args: dict) -> tuple[int, int] | None:
        """Which of the lists that were run are the conditional and the unconditional one."""
        if self._skip_reason is not None or self._prompts is None:
            self.record.note(self._skip_reason or Note.UNKNOWN_PROMPTS)
            return None
        lists, branches = self._prompts.lists, self._prompts.branches
        cond, uncond = (
            next((index for index, conditionings in enumerate(lists) if conditionings is args[side]), None)
            for side in ("input_cond", "input_uncond")
        )
        if (cond is None or uncond is None) and len(lists) == 2:
            cond, uncond = 0, 1
        if cond is None or uncond is None or branches[cond] == "uncond" or branches[uncond] == "cond":
            self.record.note(Note.UNKNOWN_PROMPTS)
            return None
        return cond, uncond

    def _predictions(self, args: dict) -> Predictions:
        """Both predictions, which are x0 in ComfyUI: x = x0 + σε, or (1 − σ)·x0 + σε for flow models."""
        x = args["input"]
        sigma = args["sigma"].reshape(-1, *[1] * (x.ndim - 1)).to(x)
        noise = NoiseLevel(1 - sigma if self._flow else 1.0, sigma, "sample")
        scale = float(args["cond_scale"])
        cond, uncond = args["cond_denoised"], args["uncond_denoised"]
        return Predictions(x, cond, uncond, noise, args["sigma"], scale, self._acts and not _is_one(scale))

    def _within_range(self, sigma: Tensor) -> bool:
        """Whether S-CFG acts now; reads sigma off the device only where a range was asked for."""
        if self._range is None:
            return True
        highest, lowest = self._range
        return lowest <= float(sigma.flatten()[0]) <= highest

    # the end

    def end(self) -> None:
        """Nothing of the evaluation is needed any more, whether the run ended well or not."""
        self._forget_evaluation()
        self.session.end_evaluation()

    def finished(self, output: Tensor) -> Run:
        """The record of a run that returned the latent `output`."""
        if self._inactive is not None:
            self.record.note(self._inactive)
        self.record.fingerprint = Fingerprint.of(output)
        return self.record

    def status(self) -> str:
        """One line for the user, once the record is closed."""
        architecture = self._architecture
        experimental = architecture.name if architecture is not None and architecture.experimental else ""
        return status_line(self.record, self._guided, experimental)


def _is_one(scale: float) -> bool:
    """Whether a cfg is 1 as the host sees it: the conditional prediction alone, with no guidance to scale."""
    return math.isclose(scale, 1.0)


def _branches(conds: Sequence[object]) -> tuple[Branch, ...]:
    """Of two lists the first is the positive one; which are what of three lists, the CFG function tells later."""
    return ("cond", "uncond") if len(conds) == 2 else ("both",) * len(conds)


def _sigma_range(patcher: Any, settings: Settings) -> tuple[float, float] | None:
    """Highest and lowest noise level at which S-CFG acts; None = all of them."""
    if settings.start == 0 and settings.end == 1:
        return None
    sampling = patcher.get_model_object("model_sampling")
    return float(sampling.percent_to_sigma(settings.start)), float(sampling.percent_to_sigma(settings.end))


def _is_flow(patcher: Any) -> bool:
    from comfy.model_sampling import CONST

    return isinstance(patcher.get_model_object("model_sampling"), CONST)
