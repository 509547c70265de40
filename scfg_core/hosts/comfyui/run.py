"""One sampling run of ComfyUI: what its wrappers ask, in the order in which they are called.

    begin → guided → [watch → watched × U-Net calls → unwatch] → the CFG slot → close_evaluation, …, finished

The evaluation's first batch of conditionings is the main one; later ones belong to PAG, SAG and their kin and are
not recorded. Guidance acts where the host's own CFG does: see `slot`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from ...collector import Branch
from ...layers import choose_layers
from ...session import Collection, Moment, Placement, Session
from ...settings import Settings
from ...trace import Evaluation, Fingerprint, Run
from ...words import labels_of
from .levels import text_attention_layers
from .preview import Preview
from .prompts import Key, Prompts, prompt_tokens
from .slot import CfgSlot
from .status import status_line
from .watcher import CHANGED, Watcher, compiles_unguarded, uncompiled

KEY = "scfg"

NOT_A_UNET = "this model is not a U-Net with text cross-attention (SD 1.x, SD 2.x, SDXL)"
NOT_A_PICTURE = "the latent is not a picture (B, C, H, W)"
CFG_ONE = "cfg is 1: there is no guidance to scale"
NO_SLOT = "this guider does not use the CFG function (PerpNeg, Basic, …)"
TILED = "tiled: another node cuts the picture into pieces"
WINDOWS = "context windows: the run is computed in slices"
AMBIGUOUS = "two prompt entries cannot be told apart"
UNCOMPILED = "torch.compile is set aside where attention is watched"
STRANGE_LISTS = "this guider calls the CFG function with prompts that it did not run"


class SamplingRun:
    """State of one run; lives in the run's own model options."""

    def __init__(
        self,
        guider: Any,
        settings: Settings,
        collection: Collection,
        word_weights: Mapping[str, float],
        sigmas: Tensor,
        evaluated: Callable[[Run, Evaluation], None],
    ) -> None:
        self.record = Run(schedule=tuple(sigmas.detach().float().cpu().tolist()))
        self.session = Session(settings, collection, self.record, lambda each: evaluated(self.record, each))
        self._preview = Preview(guider.model_patcher.get_model_object("latent_format"))
        self._word_weights = word_weights
        self._range = _sigma_range(guider.model_patcher, settings)
        self._layers = self._choose_layers(guider.model_patcher, collection)
        self._inactive: str | None = None if self._layers else NOT_A_UNET
        self._set_compiler_aside = compiles_unguarded(guider.model_options)
        self._evaluations = self._guided = 0
        self._guided_last = False
        self._forget_evaluation()

    def __deepcopy__(self, memo: dict) -> "SamplingRun":
        """Older hosts copy the model options deeply; the run is the same one in every copy."""
        return self

    def _choose_layers(self, patcher: Any, collection: Collection) -> frozenset[str]:
        layers = text_attention_layers(patcher.get_model_object("diffusion_model"))
        return frozenset(choose_layers(layers, collection.layers)) if layers else frozenset()

    def _forget_evaluation(self) -> None:
        self._noisy: Tensor | None = None
        self._prompts: Prompts | None = None
        self._run_keys: set[Key] = set()
        self._watching = self._acts = self._slot_reached = False
        self._spoiled: str | None = None

    # the evaluation, from outside in

    def begin(self, x: Tensor, sigma: Tensor) -> bool:
        """Start an evaluation of the latent x (B, C, H, W); False where S-CFG has no part in it."""
        self._forget_evaluation()
        if self._inactive is not None:
            return False
        if x.ndim != 4:
            self._inactive = NOT_A_PICTURE
            return False
        self._noisy = x
        self._evaluations += 1
        self._acts = self.session.settings.strength > 0 and self._within_range(sigma)
        return True

    def guided(self, model_options: dict) -> dict:
        """A copy of the model options in which S-CFG takes part in the CFG."""
        return CfgSlot(self._ratio, self._acts).bound_to(model_options)

    def watch(self, conds: Sequence[list[dict] | None], x: Tensor, sigma: Tensor, model_options: dict) -> bool:
        """The host is about to run the conditionings `conds`; True where this call is to be watched."""
        try:
            return self._watch(conds, x, sigma, model_options)
        except Exception as error:
            self.session.give_up(error)
            return False

    def _watch(self, conds: Sequence[list[dict] | None], x: Tensor, sigma: Tensor, model_options: dict) -> bool:
        if self._noisy is None or self._prompts is not None or self._slot_reached:
            return False
        if x.shape != self._noisy.shape or model_options.get("context_handler") is not None:
            self._spoiled = WINDOWS
            return False
        if any(conditionings is None for conditionings in conds):
            self._spoiled = CFG_ONE
            return False
        if len(conds) < 2:  # the other prompt runs apart from it: its attention is never seen beside this one's
            self._spoiled = STRANGE_LISTS
            return False
        soft = self.session.collection.soft_maps
        two = len(conds) == 2
        branches: dict[int, Branch] = {0: "cond", 1: "both" if soft else "uncond"} if two else {}
        branches = {index: branches.get(index, "both") for index in range(len(conds))}
        self._prompts = Prompts(conds, x, sigma, branches)
        for index in range(len(conds)):
            self._prompts.placements(index)
        if self._prompts.ambiguous:
            self._spoiled = AMBIGUOUS
        self._watching = self.session.begin(self._prompts.entries) and self._spoiled is None
        return True

    def unwatch(self) -> None:
        self._watching = False
        self.session.collector.forget()

    def watching(self) -> AbstractContextManager[object]:
        """Surrounds the host's calls of the U-Net for one batch of conditionings."""
        if not (self._watching and self._set_compiler_aside):
            return nullcontext()
        self.record.note(UNCOMPILED)
        return uncompiled()

    def watched(self, x: Tensor, context: Tensor | None, options: dict) -> dict:
        """`transformer_options` of one call of the U-Net, in which its attention is watched where possible."""
        try:
            return self._watched(x, context, options)
        except Exception as error:
            self.session.give_up(error)
            return options

    def _watched(self, x: Tensor, context: Tensor | None, options: dict) -> dict:
        if not self._watching or self._prompts is None or context is None:
            return options
        keys: list[Key] = list(zip(options.get("cond_or_uncond", ()), options.get("uuids", ()), strict=False))
        rows = None if self._run_keys.intersection(keys) else self._prompts.rows(x, keys)
        if rows is None:
            self._spoiled = TILED
            return options
        self._run_keys.update(keys)
        if any(context.shape[1] % self._prompts.entries[key].num_tokens for key in keys):
            self.record.note(CHANGED)
            return options
        fuse = self._acts and self._guided_last
        return Watcher(self.session, rows, self._layers, context.shape[1], fuse).bound_to(options)

    def close_evaluation(self) -> None:
        ran = self._prompts is not None or self._spoiled is not None
        if ran and not self._slot_reached:
            self._inactive = NO_SLOT
        self._forget_evaluation()
        self.session.end_evaluation()

    # the CFG slot

    def _ratio(self, args: dict) -> Tensor | None:
        """The ratio map of this evaluation, or None for plain CFG; whatever happens to us, the picture is made."""
        try:
            return self._computed_ratio(args)
        except Exception as error:
            self.session.give_up(error)
            return None

    def _computed_ratio(self, args: dict) -> Tensor | None:
        self._guided_last = False
        if self._prompts is None and self._spoiled is None:  # another node answered without a call of the U-Net
            self.watch((args["input_cond"], args["input_uncond"]), args["input"], args["sigma"], {})
        self._slot_reached = True
        self._watching = False
        sides = self._sides(args)
        if sides is None or self._prompts is None:
            return None
        branches = [self._prompts.branches[index] for index in sides]
        if branches[0] == "uncond" or branches[1] == "cond":
            self.record.note(STRANGE_LISTS)
            return None
        cond, uncond = (self._prompts.placements(index) for index in sides)
        x, text, empty = args["input"], args["cond_denoised"], args["uncond_denoised"]
        sigma = args["sigma"].reshape(-1, 1, 1, 1).to(x)
        self._describe(sides, cond, uncond)
        scale = float(args["cond_scale"])
        ratio = self.session.ratio(
            text - empty,
            (x - empty) / sigma,
            Moment(args["sigma"], scale, self._acts),
            cond,
            uncond,
            epsilon_unit=1 / sigma[:, 0],
            word_weights=self._weights_by_label(),
            preview=lambda ratio: self._preview(empty + scale * _times(text - empty, ratio)),
        )
        self._guided_last = ratio is not None
        self._guided += self._guided_last
        return ratio

    def _sides(self, args: dict) -> tuple[int, int] | None:
        """Which of the lists that were run are the conditional and the unconditional one."""
        if self._spoiled is not None or self._prompts is None:
            self.record.note(self._spoiled or STRANGE_LISTS)
            return None
        lists = self._prompts.lists
        found = [
            next((index for index, each in enumerate(lists) if each is args[side]), None)
            for side in ("input_cond", "input_uncond")
        ]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
        if len(lists) == 2:
            return 0, 1
        self.record.note(STRANGE_LISTS)
        return None

    # helpers

    def _within_range(self, sigma: Tensor) -> bool:
        """Whether S-CFG acts now; reads sigma off the device only where a range was asked for."""
        if self._range is None:
            return True
        highest, lowest = self._range
        return lowest <= float(sigma.flatten()[0]) <= highest

    def _describe(self, sides: tuple[int, int], cond: Sequence[Placement], uncond: Sequence[Placement]) -> None:
        assert self._prompts is not None
        tokens = self.record.tokens = prompt_tokens(self._prompts, sides[0], cond)
        self.record.negative_tokens = prompt_tokens(self._prompts, sides[1], uncond)
        seen = [self.session.collector.layers_seen(place.entry) for place in cond]
        if any(seen):
            self.record.facts = {
                "layers": max(seen),
                "grids": self.session.collector.grids_seen(),
                "tokens": sum(len(each.texts) for each in tokens),
                "entries": len(cond),
            }

    def _weights_by_label(self) -> dict[int, float]:
        weights: dict[int, float] = {}
        for phrase, weight in self._word_weights.items():
            labels = labels_of(phrase, self.record.tokens)
            if not labels:
                self.record.note(f"the prompt has no word {phrase!r} to weight (S-CFG Text Encode knows the words)")
            weights |= dict.fromkeys(labels, weight)
        return weights

    # the end

    def end(self) -> None:
        """Nothing of this run is needed any more, whether it ended well or not."""
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
        return status_line(self.record, self._guided > 0)


def _times(delta: Tensor, ratio: Tensor | None) -> Tensor:
    return delta if ratio is None else delta * ratio


def _sigma_range(patcher: Any, settings: Settings) -> tuple[float, float] | None:
    """Highest and lowest noise level at which S-CFG acts; None = all of them."""
    if settings.start == 0 and settings.end == 1:
        return None
    sampling = patcher.get_model_object("model_sampling")
    return float(sampling.percent_to_sigma(settings.start)), float(sampling.percent_to_sigma(settings.end))
