"""The demo model's U-Net: a plain diffusers `UNet2DConditionModel` in the layout of Stable Diffusion 1.x."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from einops import rearrange


def build_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """A U-Net with random weights. Plain attention: at these sizes it beats the fused kernel on a CPU."""
    unet = UNet2DConditionModel(**config)
    unet.set_attn_processor(AttnProcessor())
    return unet


@torch.no_grad()
def make_start_the_sink(unet: UNet2DConditionModel, start: float, rest: float, length: float) -> None:
    """Before training: let START draw the attention everywhere, END and PAD little, and words earn theirs.

    Queries get a constant part (the bias of the norm before them), and the keys of START (context channel 0)
    and of END and PAD (channel 1) are laid along it, so that their logits are about `start` and `rest`;
    `length` is the size of these channels. Their values start at zero: they say nothing.
    """
    for block in unet.modules():
        if not isinstance(getattr(block, "attn2", None), Attention):
            continue
        norm, attention = block.norm2, block.attn2
        norm.bias.normal_(0, 0.5)
        constant = rearrange(attention.to_q.weight @ norm.bias, "(h d) -> h d", h=attention.heads)
        along = constant / constant.square().sum(-1, keepdim=True) / attention.scale / length
        attention.to_k.weight[:, 0] = start * rearrange(along, "h d -> (h d)")
        attention.to_k.weight[:, 1] = rest * rearrange(along, "h d -> (h d)")
        attention.to_v.weight[:, :2] = 0
