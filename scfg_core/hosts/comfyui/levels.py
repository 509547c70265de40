"""The attention layers of a ComfyUI U-Net, with their levels, read off its module tree.

A layer is named like the host names it while it runs: "input.7.0" = input block 7, transformer block 0.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ...layers import LayerInfo


def layer_name(block: tuple[str, int], block_index: int) -> str:
    """Name of the transformer block that `transformer_options` describes."""
    return f"{block[0]}.{block[1]}.{block_index}"


def text_attention_layers(diffusion_model: nn.Module) -> list[LayerInfo]:
    """Layers in the order in which they run; empty for a model that is not a U-Net with text cross-attention."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet: Any = getattr(diffusion_model, "_orig_mod", diffusion_model)  # torch.compile keeps the module there
    if not isinstance(unet, UNetModel):
        return []
    layers: list[LayerInfo] = []
    level = 0
    for index, block in enumerate(unet.input_blocks):
        level += _halvings(block)
        layers += _layers_of(block, ("input", index), level)
    if unet.middle_block is not None:
        layers += _layers_of(unet.middle_block, ("middle", 0), level)
    for index, block in enumerate(unet.output_blocks):
        layers += _layers_of(block, ("output", index), level)
        level -= _doublings(block)
    return layers


def _layers_of(block: Iterable[Any], place: tuple[str, int], level: int) -> list[LayerInfo]:
    from comfy.ldm.modules.attention import SpatialTransformer, SpatialVideoTransformer

    return [
        LayerInfo(layer_name(place, index), level)
        for module in block
        if isinstance(module, SpatialTransformer) and not isinstance(module, SpatialVideoTransformer)
        for index, transformer in enumerate(module.transformer_blocks)
        if transformer.attn2 is not None and not transformer.disable_self_attn
    ]


def _halvings(block: Iterable[Any]) -> int:
    from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, ResBlock

    return sum(
        isinstance(module, Downsample) or (isinstance(module, ResBlock) and isinstance(module.h_upd, Downsample))
        for module in block
    )


def _doublings(block: Iterable[Any]) -> int:
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, Upsample

    return sum(
        isinstance(module, Upsample) or (isinstance(module, ResBlock) and isinstance(module.h_upd, Upsample))
        for module in block
    )
