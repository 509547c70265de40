"""HiDream: the image first. The host does not say which block runs: they are counted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ....collect.calls import Layout
from ....families import HIDREAM, Columns, Text
from ....grid import Grid
from .base import AttentionCall
from .transformer import JointTransformer, block_names


@dataclass(frozen=True)
class HiDream(JointTransformer):
    @classmethod
    def of(cls, module: Any) -> "HiDream | None":
        from comfy.ldm.hidream.model import HiDreamImageTransformer2DModel

        if type(module) is not HiDreamImageTransformer2DModel:
            return None
        blocks = block_names("block", [*module.double_stream_blocks, *module.single_stream_blocks])
        return cls(HIDREAM.with_patch(module.patch_size), blocks)

    def num_columns(self, context: Tensor, extra: Mapping[str, Any]) -> int:
        llama = extra.get("encoder_hidden_states_llama3")
        return context.shape[1] + (0 if llama is None else 2 * llama.shape[2])

    def read(self, text: Text) -> Columns:
        columns = self.num_columns(text.context, text.extra)
        return super().read(replace(text, context=text.context.new_ones((1, columns, 1)), words=(), mask=None))

    def layer_of(self, options: dict[str, Any], calls: int) -> str | None:
        return f"block.{calls}"

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        return self.family.layout(columns, grid, text_first=False)
