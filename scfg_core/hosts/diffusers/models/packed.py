"""Networks whose pipelines make the patches: latents (b, h·w, 4C), one forward a branch, conditional first."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....errors import ScfgError
from ....families import CHROMA, FLUX_1, QWEN_IMAGE
from ....grid import Grid
from ....prompt import Branch
from ..schedule import Scheduler
from .base import ModelCall, Raw
from .transformer import RowText, Transformer, block_paths, packed, unpacked


@dataclass(frozen=True)
class PackedTransformer(Transformer):
    """Text first, then the image, then reference images."""

    order: ClassVar[tuple[Branch, Branch]] = ("cond", "uncond")
    separate: ClassVar[bool] = True

    @abstractmethod
    def patches(self, given: Mapping[str, Any]) -> Grid:
        """Patches of the image, without those of reference images."""

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCall | None:
        given = self.arguments(args, kwargs)
        if given.get("encoder_hidden_states") is None:
            return None
        tokens, grid = given["hidden_states"], self.patches(given)
        return ModelCall(tokens, unpacked(tokens[:, : grid.area], grid), given["timestep"], given)

    def grid(self, call: ModelCall) -> Grid:
        return self.patches(call.given)

    def references(self, call: ModelCall) -> int:
        return call.given["hidden_states"].shape[1] - self.grid(call).area

    def columns(self, call: ModelCall) -> list[int]:
        return [call.given["encoder_hidden_states"].shape[1]] * call.rows

    def sources(self, call: ModelCall, rows: slice) -> tuple[object, ...]:
        return (call.given["encoder_hidden_states"],)

    def texts(self, call: ModelCall, rows: slice) -> list[RowText]:
        context = call.given["encoder_hidden_states"][rows]
        return [RowText(row.shape[0], row) for row in context]

    def predicted(self, call: ModelCall, raw: Raw, scheduler: Scheduler) -> Tensor:
        grid = self.grid(call)
        return unpacked(raw[:, : grid.area], grid)

    def put(self, call: ModelCall, raw: Raw, rows: slice, predicted: Tensor) -> None:
        raw[rows, : self.grid(call).area] = packed(predicted)


@dataclass(frozen=True)
class Flux(PackedTransformer):
    """Flux.1 with true CFG; the grid is read off the positions of the image, once for a sampling."""

    parameters: ClassVar[tuple[str, ...]] = (
        "hidden_states",
        "encoder_hidden_states",
        "pooled_projections",
        "timestep",
        "img_ids",
    )
    own_scale: ClassVar[bool] = False
    _grids: list[tuple[Tensor, Grid]] = field(default_factory=list)

    @classmethod
    def of(cls, module: nn.Module) -> "Flux":
        return cls(module, FLUX_1, block_paths(module, "transformer_blocks", "single_transformer_blocks"))

    def patches(self, given: Mapping[str, Any]) -> Grid:
        ids = given["img_ids"]
        if not self._grids or self._grids[0][0] is not ids:
            rows = ids.reshape(-1, 3)
            h, w = (int(side) + 1 for side in rows[rows[:, 0] == 0][:, 1:].amax(dim=0).tolist())
            self._grids[:] = [(ids, Grid(h, w))]
        return self._grids[0][1]


@dataclass(frozen=True)
class Chroma(Flux):
    """Its pipeline adds the mask of the text to the scores, 1 where a column is kept, instead of dropping the
    others: padding takes its share of the attention, and owns nothing, as the one column of it that is kept."""

    parameters: ClassVar[tuple[str, ...]] = ("hidden_states", "encoder_hidden_states", "timestep", "img_ids")
    own_scale: ClassVar[bool] = True
    alike: ClassVar[bool] = True

    @classmethod
    def of(cls, module: nn.Module) -> "Chroma":
        return cls(module, CHROMA, block_paths(module, "transformer_blocks", "single_transformer_blocks"))

    def sources(self, call: ModelCall, rows: slice) -> tuple[object, ...]:
        return (call.given["encoder_hidden_states"], call.given.get("attention_mask"))

    def texts(self, call: ModelCall, rows: slice) -> list[RowText]:
        mask, found = call.given.get("attention_mask"), super().texts(call, rows)
        if mask is None:
            return found
        masks = mask[rows, : found[0].columns] != 0
        padded = ~masks.all(dim=1, keepdim=True)
        kept = masks.cumsum(dim=1) < masks.sum(dim=1, keepdim=True) + (~padded).long()
        return [
            RowText(text.columns, text.context, row.long()) for text, row in zip(found, masks & kept, strict=True)
        ]


@dataclass(frozen=True)
class QwenImage(PackedTransformer):
    """Qwen-Image; padding of shorter prompts is masked."""

    parameters: ClassVar[tuple[str, ...]] = (
        "hidden_states",
        "encoder_hidden_states",
        "encoder_hidden_states_mask",
        "timestep",
        "img_shapes",
    )
    own_scale: ClassVar[bool] = False

    @classmethod
    def of(cls, module: Any) -> "QwenImage":
        """Raises `ScfgError` for the layered model, whose prediction has several images."""
        if getattr(module.config, "use_layer3d_rope", False):
            raise ScfgError(
                "expected Qwen-Image or Qwen-Image-Edit, got the model of image layers: "
                "S-CFG has one map for one image; sample it without"
            )
        return cls(module, QWEN_IMAGE, block_paths(module, "transformer_blocks"))

    def patches(self, given: Mapping[str, Any]) -> Grid:
        shape = given["img_shapes"][0]
        _, h, w = shape if isinstance(shape, tuple) else shape[0]
        return Grid(h, w)

    def sources(self, call: ModelCall, rows: slice) -> tuple[object, ...]:
        return (call.given["encoder_hidden_states"], call.given.get("encoder_hidden_states_mask"))

    def texts(self, call: ModelCall, rows: slice) -> list[RowText]:
        mask, found = call.given.get("encoder_hidden_states_mask"), super().texts(call, rows)
        if mask is None:
            return found
        masks = mask[rows].to(torch.bool).long()
        return [
            RowText(text.columns, text.context, row, masked=True) for text, row in zip(found, masks, strict=True)
        ]
