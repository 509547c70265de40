"""U-Nets with CLIP prompts: SD 1.x, SD 2.x, SDXL. attn1 is self-attention, attn2 cross-attention.

A layer is named like the host names it while it runs: "input.7.0" = input block 7, transformer block 0.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ....collect.calls import Layout
from ....collect.layers import LayerInfo
from ....grid import Grid
from ...clip import chunk_starts
from .base import AttentionCall, Site


@dataclass(frozen=True)
class UNet:
    """A `UNetModel` with text cross-attention."""

    layers: Sequence[LayerInfo]

    @classmethod
    def of(cls, module: Any) -> "UNet | None":
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        layers = list(_layers(module)) if isinstance(module, UNetModel) else []
        return cls(layers) if layers else None

    def layer_of(self, options: dict[str, Any]) -> str | None:
        if "block" not in options or "activations_shape" not in options:
            return None
        return _name(options["block"], options.get("block_index", 0))

    def locate(self, call: AttentionCall) -> Site:
        """attn1 and attn2 alternate; the number of keys confirms which of them it is, where the two differ."""
        _, _, h, w = call.options["activations_shape"][:4]
        grid, keys = Grid(h, w), call.k.shape[2]
        is_self = call.slot == "attn1" if call.slot else call.repeated == 0
        if call.slot is None and grid.area != call.tokens and keys in (grid.area, call.tokens):
            is_self = keys == grid.area
        layout = Layout.self_attention(grid) if is_self else Layout.cross_attention(call.tokens)
        return Site(_name(call.options["block"], call.options.get("block_index", 0)), grid, layout)

    def start_tokens(self, length: int, given: Sequence[int]) -> tuple[int, ...]:
        """As the encoder says, and every chunk's where the length is one of whole chunks."""
        return chunk_starts(length, given)


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
