"""The demo model's U-Net: a plain diffusers `UNet2DConditionModel` in the layout of Stable Diffusion 1.x."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from einops import rearrange, reduce
from torch import Tensor, nn


def build_unet(config: dict[str, Any]) -> UNet2DConditionModel:
    """A U-Net with random weights. Plain attention: at these sizes it beats the fused kernel on a CPU."""
    unet = UNet2DConditionModel(**config)
    unet.set_attn_processor(AttnProcessor())
    return unet


def text_attentions(unet: UNet2DConditionModel) -> list[tuple[nn.LayerNorm, Attention]]:
    """The norm before, and the module of, every attention to the text."""
    blocks = [m for m in unet.modules() if isinstance(getattr(m, "attn2", None), Attention)]
    return [(block.norm2, block.attn2) for block in blocks]


@torch.no_grad()
def start_text_attention(unet: UNet2DConditionModel, start: float, length: float) -> None:
    """Fresh queries and keys for the text, with START drawing the attention everywhere: words earn theirs.

    Queries get a constant part (the bias of the norm before them), and the key of START (context channel 0, of
    size `length`) is laid along it, so that its logit is about `start`. Its value starts at zero: it says nothing.
    """
    for norm, attention in text_attentions(unet):
        attention.to_q.reset_parameters()
        attention.to_k.reset_parameters()
        norm.reset_parameters()
        norm.bias.normal_(0, 0.5)
        constant = rearrange(attention.to_q.weight @ norm.bias, "(h d) -> h d", h=attention.heads)
        along = constant / constant.square().sum(-1, keepdim=True) / attention.scale / length
        attention.to_k.weight[:, 0] = start * rearrange(along, "h d -> (h d)")
        attention.to_v.weight[:, 0] = 0


class SharesProcessor:
    """Plain attention that keeps its probabilities, so that training can see how they are shared out."""

    def __init__(self) -> None:
        self.probabilities: Tensor | None = None

    def __call__(self, attn: Attention, x: Tensor, encoder_hidden_states: Tensor, **_: object) -> Tensor:
        to_heads = "b n (h d) -> b h n d"
        q = rearrange(attn.to_q(x), to_heads, h=attn.heads)
        k = rearrange(attn.to_k(encoder_hidden_states), to_heads, h=attn.heads)
        v = rearrange(attn.to_v(encoder_hidden_states), to_heads, h=attn.heads)
        self.probabilities = (q @ k.mT * attn.scale).softmax(-1)
        return attn.to_out[0](rearrange(self.probabilities @ v, "b h n d -> b n (h d)"))


def unfair_shares(processors: list[SharesProcessor], is_word: Tensor, least: float, rest: float) -> Tensor:
    """How unfairly heads share their attention: less than `least` to START or to all words, or more than `rest` to
    END and PAD. Squared, and summed over layers and heads.

    is_word: (B, L), bool, of rows with words. Without it a head whose words mean nothing yet turns itself off for
    good: all its attention goes to one constant token, the same everywhere.
    """
    total = is_word.new_zeros((), dtype=torch.float32)
    for processor in processors:
        shares = reduce(processor.probabilities, "b h n l -> b h l", "mean")
        words = torch.einsum("b h l, b l -> h", shares, is_word.to(shares)) / len(is_word)
        start = shares[:, :, 0].mean(0)
        spare = 1 - words - start
        total = total + (least - start).relu().square().sum()
        total = total + (least - words).relu().square().sum() + (spare - rest).relu().square().sum()
    return total
