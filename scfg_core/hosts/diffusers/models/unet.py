"""U-Nets: Stable Diffusion 1.5, 2.1, XL with CLIP prompts; DeepFloyd IF, whose T5 has no START."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ....collect.layers import LayerChoice, choose_layers
from ....prompt import Branch, Prompt
from ...clip import chunk_starts
from ..layout import count_predicted
from ..schedule import Schedule, Scheduler
from .base import Layer, ModelCall, Noted, Part, Raw, Wording
from .unet_layers import JointLayer, find_layers

PARAMETERS = ("sample", "timestep", "encoder_hidden_states")


@dataclass(frozen=True)
class UNet:
    """A text-conditioned UNet2DConditionModel."""

    module: nn.Module
    joint: bool
    order: tuple[Branch, Branch] = ("uncond", "cond")
    separate: bool = False
    own_scale: bool = True

    @classmethod
    def of(cls, module: nn.Module) -> "UNet":
        """Raises `ShapeError` where the module is no text-conditioned U-Net."""
        return cls(module, isinstance(find_layers(module)[0], JointLayer))

    def choose_layers(self, choice: LayerChoice) -> dict[str, Layer]:
        layers = {layer.info.name: layer for layer in find_layers(self.module)}
        chosen = choose_layers([layer.info for layer in layers.values()], choice)
        return {name: layers[name] for name in chosen}

    @property
    def propagates(self) -> bool:
        """Whether some layer attends to the image itself."""
        layers = find_layers(self.module)
        return any(not isinstance(layer, JointLayer) or layer.sees_image for layer in layers)

    def levels(self, scheduler: Scheduler) -> Schedule:
        return Schedule.of(scheduler)

    def scale(self, given: float) -> float:
        return given

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCall | None:
        given = dict(zip(PARAMETERS, args, strict=False)) | dict(kwargs)
        if given.get("encoder_hidden_states") is None:
            return None
        return ModelCall(given["sample"], given["sample"], given["timestep"], given)

    def describe(self, call: ModelCall, part: Part, wording: Wording, noted: Noted) -> tuple[Prompt, Part]:
        """Its words as the caller described them, where there are as many tokens."""
        tokens = call.given["encoder_hidden_states"].shape[1]
        starts = wording.start_tokens
        if starts is None:
            starts = () if self.joint else chunk_starts(tokens)
        plain, described = Prompt.plain(part.branch, tokens, starts), wording.prompt
        part = replace(part, columns=tokens)
        if part.branch == "uncond":
            return plain, part
        if wording.names is not None:
            return Prompt.plain(part.branch, tokens, starts, *wording.names(tokens)), part
        if described is None:
            return plain, part
        if described.num_tokens != tokens:
            noted(described.num_tokens, tokens)
            return plain, part
        roles = described.roles if wording.start_tokens is None and not self.joint else plain.roles
        return replace(described, branch=part.branch, roles=roles), part

    def copied(self, raw: Raw) -> Raw:
        return raw.clone()

    def predicted(self, call: ModelCall, raw: Raw, scheduler: Scheduler) -> Tensor:
        return raw[:, : count_predicted(self.module, scheduler, call.x.shape[1], raw.shape[1])]

    def put(self, call: ModelCall, raw: Raw, rows: slice, predicted: Tensor) -> None:
        raw[rows, : predicted.shape[1]] = predicted

    def velocity(self, predicted: Tensor) -> Tensor:
        return predicted

    def undoes(self, call: ModelCall) -> bool:
        return False
