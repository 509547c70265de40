"""What training sees of the U-Net's attention: probabilities, how they are shared out, and the maps they make."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange, reduce
from torch import Tensor, nn

from ..unet import attention_blocks

GRID = 16
"""Side of the largest attention grid; the maps of all layers are brought to it."""
POWERS = 4
"""R of Eq. 10."""


class Probe:
    """Plain attention that keeps its queries, logits and probabilities, (B, heads, N, …), with their gradients."""

    queries: Tensor
    logits: Tensor
    probabilities: Tensor

    def __call__(
        self, attn: Attention, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        context = x if encoder_hidden_states is None else encoder_hidden_states
        to_heads = "b n (h d) -> b h n d"
        self.queries = rearrange(attn.to_q(x), to_heads, h=attn.heads)
        k = rearrange(attn.to_k(context), to_heads, h=attn.heads)
        v = rearrange(attn.to_v(context), to_heads, h=attn.heads)
        self.logits = self.queries @ k.mT * attn.scale
        self.probabilities = self.logits.softmax(-1)
        return attn.to_out[0](rearrange(self.probabilities.to(v) @ v, "b h n d -> b n (h d)"))


@dataclass
class LayerProbes:
    """The two attentions of one transformer block."""

    self_attention: Probe = field(default_factory=Probe)
    cross_attention: Probe = field(default_factory=Probe)


def probe_text(unet: nn.Module) -> list[Probe]:
    """Watch every attention to the text; self-attention stays what it is."""
    probes = []
    for block in attention_blocks(unet):
        block.attn2.set_processor(Probe())
        probes.append(block.attn2.processor)
    return probes


def probe_all(unet: nn.Module) -> list[LayerProbes]:
    """Watch every attention."""
    layers = []
    for block in attention_blocks(unet):
        layer = LayerProbes()
        block.attn1.set_processor(layer.self_attention)
        block.attn2.set_processor(layer.cross_attention)
        layers.append(layer)
    return layers


def unfair_shares(probabilities: list[Tensor], is_word: Tensor, least: float, rest: float) -> Tensor:
    """How unfairly heads share their attention: less than `least` to START or to all words, or more than `rest` to
    END and PAD. Squared, and summed over layers and heads.

    probabilities  of every layer: (B, heads, N, L); is_word (B, L), bool. Rows without a word do not count.
    Without it a head whose words mean nothing yet turns itself off for good: all its attention goes to one
    constant token, the same everywhere.
    """
    has_words = is_word.any(1).float()
    weight = has_words / has_words.sum().clamp(min=1)
    total = is_word.new_zeros((), dtype=torch.float32)
    for layer in probabilities:
        shares = reduce(layer.float(), "b h n l -> b h l", "mean")
        words = torch.einsum("b h l, b l, b -> h", shares, is_word.float(), weight)
        start = torch.einsum("b h, b -> h", shares[:, :, 0], weight)
        spare = 1 - words - start
        total = total + (least - start).relu().square().sum()
        total = total + (least - words).relu().square().sum() + (spare - rest).relu().square().sum()
    return total


def propagate(self_attention: Tensor, cross_attention: Tensor) -> Tensor:
    """Mean of S^1 C … S^R C (Eq. 10): S (B, N, N), C (B, N, L) → (B, N, L)."""
    step, total = cross_attention, torch.zeros_like(cross_attention)
    for _ in range(POWERS):
        step = self_attention @ step
        total = total + step / POWERS
    return total


def fuse(layers: list[Tensor]) -> Tensor:
    """Maps (B, N, L) of all layers on the largest grid, summed; how far each is above its own mean: (B, 256, L).

    As S-CFG compares tokens (Eq. 9) and START with the rest (Eq. 14): a map of 0.02 is two per cent above its mean.
    """
    total = torch.stack([_resize(layer) for layer in layers]).sum(0)
    return total / total.mean(1, keepdim=True) - 1


def _resize(maps: Tensor) -> Tensor:
    side = {GRID * GRID: GRID, GRID * GRID // 4: GRID // 2}[maps.shape[1]]
    if side == GRID:
        return maps
    grid = rearrange(maps, "b (h w) l -> b l h w", h=side)
    return rearrange(F.interpolate(grid, (GRID, GRID), mode="bilinear"), "b l h w -> b (h w) l")


def token_maps(layers: list[LayerProbes]) -> Tensor:
    """The fused, propagated map of every token as the last forward left it: (B, 256, L), mean 0."""
    return fuse(
        [
            propagate(layer.self_attention.probabilities.mean(1), layer.cross_attention.probabilities.mean(1))
            for layer in layers
        ]
    )
