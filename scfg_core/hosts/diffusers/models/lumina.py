"""Lumina 2, one forward a branch, conditional first; Z-Image, [conditional; unconditional] rows in one forward.

Both predict x0 − ε, the velocity backwards. The refiners before the blocks attend to text or image alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ....families import LUMINA_2, Z_IMAGE
from ....grid import Grid
from ....prompt import Branch
from ..schedule import Scheduler
from .base import ModelCall, Raw
from .transformer import RowText, Transformer, block_paths


@dataclass(frozen=True)
class Lumina2(Transformer):
    """The padding of a prompt is cut off before the blocks: text, then at once the image."""

    parameters: ClassVar[tuple[str, ...]] = (
        "hidden_states",
        "timestep",
        "encoder_hidden_states",
        "encoder_attention_mask",
    )
    order: ClassVar[tuple[Branch, Branch]] = ("cond", "uncond")
    separate: ClassVar[bool] = True
    _lengths: list[tuple[Tensor, list[int]]] = field(default_factory=list)

    @classmethod
    def of(cls, module: Any) -> "Lumina2":
        return cls(module, LUMINA_2.with_patch(module.config.patch_size), block_paths(module, "layers"))

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCall | None:
        given = self.arguments(args, kwargs)
        if given.get("encoder_hidden_states") is None:
            return None
        return ModelCall(given["hidden_states"], given["hidden_states"], given["timestep"], given)

    def grid(self, call: ModelCall) -> Grid:
        return self.family.grid(*call.x.shape[-2:])

    def columns(self, call: ModelCall) -> list[int]:
        """Read off the device once for a text."""
        mask = call.given["encoder_attention_mask"]
        for known, lengths in self._lengths:
            if known is mask:
                return lengths
        lengths = [int(length) for length in mask.sum(dim=1).tolist()]
        self._lengths[:] = [*self._lengths[-3:], (mask, lengths)]
        return lengths

    def sources(self, call: ModelCall, rows: slice) -> tuple[object, ...]:
        return (call.given["encoder_hidden_states"], call.given["encoder_attention_mask"])

    def texts(self, call: ModelCall, rows: slice) -> list[RowText]:
        context, lengths = call.given["encoder_hidden_states"][rows], self.columns(call)[rows]
        return [RowText(length, row[:length]) for row, length in zip(context, lengths, strict=True)]

    def velocity(self, predicted: Tensor) -> Tensor:
        return -predicted


@dataclass(frozen=True)
class ZImage(Transformer):
    """The image and its padding first, then the text and its own. Images and texts come as lists.

    The pipeline computes c + s·(c − u): Eq. 7 with γ = s + 1.
    """

    parameters: ClassVar[tuple[str, ...]] = ("x", "t", "cap_feats")
    order: ClassVar[tuple[Branch, Branch]] = ("cond", "uncond")
    separate: ClassVar[bool] = False
    text_first: ClassVar[bool] = False
    attention: ClassVar[str] = "attention"

    @classmethod
    def of(cls, module: Any) -> "ZImage":
        return cls(module, Z_IMAGE.with_patch(module.all_patch_size[0]), block_paths(module, "layers"))

    def scale(self, given: float) -> float:
        return given + 1

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCall | None:
        """None for several images of one row (Omni): where they stand is not known."""
        given = self.arguments(args, kwargs)
        images = given["x"]
        if isinstance(images[0], list) or images[0].shape[1] != 1 or given.get("cap_feats") is None:
            return None
        return ModelCall(images, torch.stack(images)[:, :, 0], given["t"], given)

    def grid(self, call: ModelCall) -> Grid:
        return self.family.grid(*call.x.shape[-2:])

    def columns(self, call: ModelCall) -> list[int]:
        return [len(text) for text in call.given["cap_feats"]]

    def sources(self, call: ModelCall, rows: slice) -> tuple[object, ...]:
        return tuple(call.given["cap_feats"][rows])

    def texts(self, call: ModelCall, rows: slice) -> list[RowText]:
        return [RowText(len(text), text) for text in call.given["cap_feats"][rows]]

    def copied(self, raw: Raw) -> Raw:
        return [image.clone() for image in raw]

    def predicted(self, call: ModelCall, raw: Raw, scheduler: Scheduler) -> Tensor:
        return torch.stack(list(raw))[:, :, 0]

    def put(self, call: ModelCall, raw: Raw, rows: slice, predicted: Tensor) -> None:
        for place, image in zip(range(len(raw))[rows], predicted, strict=True):
            raw[place][:, 0] = image

    def velocity(self, predicted: Tensor) -> Tensor:
        return -predicted
