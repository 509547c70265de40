"""U-Nets with CLIP prompts: SD 1.x, SD 2.x, SDXL. attn1 is self-attention, attn2 cross-attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....collect.calls import Layout
from ....collect.layers import LayerChoice, LayerInfo, choose_layers
from ....families import Columns, Text
from ....grid import Grid
from ...clip import chunk_starts
from .base import AttentionCall, ModelCall, Site
from .unet_layers import layer_name, layers_with_text


@dataclass(frozen=True)
class UNet:
    """A `UNetModel` with text cross-attention."""

    layers: Sequence[LayerInfo]
    name: str = "U-Net"
    experimental: bool = False
    takes_frames: bool = False
    marked_blocks: Sequence[tuple[str, int]] = ()

    @classmethod
    def of(cls, module: Any) -> "UNet | None":
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        layers = list(layers_with_text(module)) if isinstance(module, UNetModel) else []
        return cls(layers) if layers else None

    def choose_layers(self, choice: LayerChoice) -> list[str]:
        return choose_layers(self.layers, choice)

    def num_columns(self, context: Tensor, extra: Mapping[str, Any]) -> int:
        return context.shape[1]

    def read(self, text: Text) -> Columns:
        """START as the encoder says, and every chunk's where the length is one of whole chunks; else words."""
        length = text.context.shape[1]
        starts = chunk_starts(length, text.starts)
        return Columns(tuple("start" if column in starts else "word" for column in range(length)))

    def layer_of(self, options: dict[str, Any], calls: int) -> str | None:
        if "block" not in options or "activations_shape" not in options:
            return None
        return layer_name(options["block"], options.get("block_index", 0))

    def locate(self, call: AttentionCall) -> Site:
        """attn1 and attn2 alternate; the number of keys confirms which of them it is, where the two differ."""
        _, _, h, w = call.options["activations_shape"][:4]
        grid, keys, tokens = Grid(h, w), call.k.shape[2], call.model.context.shape[1]
        is_self = call.slot == "attn1" if call.slot else call.repeated == 0
        if call.slot is None and grid.area != tokens and keys in (grid.area, tokens):
            is_self = keys == grid.area
        return Site(grid, Layout.self_attention(grid) if is_self else Layout.cross_attention(tokens))

    def allows_mask(self, mask: Tensor, call: ModelCall) -> bool:
        return False
