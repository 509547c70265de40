"""The demo model's U-Net: a plain diffusers `UNet2DConditionModel` in the layout of Stable Diffusion 1.x."""

from __future__ import annotations

from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor
from torch import nn


def build_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """A U-Net with random weights. Plain attention: at these sizes it beats the fused kernel on a CPU."""
    unet = UNet2DConditionModel(**config)
    unet.set_attn_processor(AttnProcessor())
    return unet


def attention_blocks(unet: nn.Module) -> list[BasicTransformerBlock]:
    """Every transformer block, with its self-attention `attn1` and its attention to the text `attn2`."""
    return [module for module in unet.modules() if isinstance(module, BasicTransformerBlock)]
