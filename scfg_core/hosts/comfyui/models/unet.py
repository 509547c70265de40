"""U-Nets with CLIP prompts: SD 1.x, SD 2.x, SDXL. attn1 is self-attention, attn2 cross-attention.

A layer is named like the host names it while it runs: "input.7.0" = input block 7, transformer block 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....collect.calls import Layout
from ....collect.layers import LayerChoice, LayerInfo, choose_layers
from ....grid import Grid
from ...clip import chunk_starts
from .base import AttentionCall, Columns, ModelCall, Site, Text


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

        layers = list(_layers(module)) if isinstance(module, UNetModel) else []
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
        return _name(options["block"], options.get("block_index", 0))

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


def _name(block: tuple[str, int], index: int) -> str:
    return f"{block[0]}.{block[1]}.{index}"


def _layers(unet: Any) -> Iterator[LayerInfo]:
    level = 0
    for index, block in enumerate(unet.input_blocks):
        level += _resamplers(block, "Downsample")
        yield from _layers_of(block, ("input", index), level)
    yield from _layers_of(unet.middle_block or (), ("middle", 0), level)
    for index, block in enumerate(unet.output_blocks):
        yield from _layers_of(block, ("output", index), level)
        level -= _resamplers(block, "Upsample")


def _layers_of(block: Any, place: tuple[str, int], level: int) -> Iterator[LayerInfo]:
    from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer

    for module in block:
        if isinstance(module, SpatialTransformer) and not isinstance(module, SpatialVideoTransformer):
            for index, transformer in enumerate(module.transformer_blocks):
                if transformer.attn2 is not None and not transformer.disable_self_attn:
                    yield LayerInfo(_name(place, index), level)


def _resamplers(block: Any, kind: str) -> int:
    from comfy.ldm.modules.diffusionmodules import openaimodel

    sampler, within = getattr(openaimodel, kind), openaimodel.ResBlock
    return sum(isinstance(m, sampler) or (isinstance(m, within) and isinstance(m.h_upd, sampler)) for m in block)
