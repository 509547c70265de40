"""SD 3 and SD 3.5: [unconditional; conditional] rows in one forward, the image before the text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ....families import sd3
from ....grid import Grid
from ....prompt import Branch
from .base import ModelCall
from .transformer import RowText, Transformer, block_paths


@dataclass(frozen=True)
class SD3(Transformer):
    """SD 3.5-M attends a second time in some blocks, to the patches alone (`attn2`): that is not observed."""

    parameters: ClassVar[tuple[str, ...]] = (
        "hidden_states",
        "encoder_hidden_states",
        "pooled_projections",
        "timestep",
    )
    order: ClassVar[tuple[Branch, Branch]] = ("uncond", "cond")
    separate: ClassVar[bool] = False
    text_first: ClassVar[bool] = False

    @classmethod
    def of(cls, module: Any) -> "SD3":
        family = sd3(len(module.transformer_blocks)).with_patch(module.config.patch_size)
        return cls(module, family, block_paths(module, "transformer_blocks"))

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCall | None:
        given = self.arguments(args, kwargs)
        if given.get("encoder_hidden_states") is None:
            return None
        return ModelCall(given["hidden_states"], given["hidden_states"], given["timestep"], given)

    def undoes(self, call: ModelCall) -> bool:
        """Skip-layer guidance: the pipeline adds the difference of the conditional prediction and this one."""
        return call.given.get("skip_layers") is not None

    def grid(self, call: ModelCall) -> Grid:
        return self.family.grid(*call.x.shape[-2:])

    def columns(self, call: ModelCall) -> list[int]:
        return [call.given["encoder_hidden_states"].shape[1]] * call.rows

    def sources(self, call: ModelCall, rows: slice) -> tuple[object, ...]:
        return (call.given["encoder_hidden_states"],)

    def texts(self, call: ModelCall, rows: slice) -> list[RowText]:
        return [RowText(row.shape[0], row) for row in call.given["encoder_hidden_states"][rows]]
