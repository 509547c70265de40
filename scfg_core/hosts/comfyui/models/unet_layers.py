"""The layers of a ComfyUI U-Net with their levels, read off its module tree."""

from collections.abc import Iterator
from typing import Any

from ....collect.layers import LayerInfo


def layer_name(block: tuple[str, int], index: int) -> str:
    """As the host names a layer while it runs: "input.7.0" = input block 7, transformer block 0."""
    return f"{block[0]}.{block[1]}.{index}"


def layers_with_text(unet: Any) -> Iterator[LayerInfo]:
    """Transformer blocks with self- and cross-attention, in the order in which they run."""
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
                    yield LayerInfo(layer_name(place, index), level)


def _resamplers(block: Any, kind: str) -> int:
    from comfy.ldm.modules.diffusionmodules import openaimodel

    sampler, within = getattr(openaimodel, kind), openaimodel.ResBlock
    return sum(isinstance(m, sampler) or (isinstance(m, within) and isinstance(m.h_upd, sampler)) for m in block)
