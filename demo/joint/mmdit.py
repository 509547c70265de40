"""A joint-attention transformer in the layout of Stable Diffusion 3 (arXiv 2403.03206), small enough to train.

Its state dict has the names of ComfyUI's `comfy.ldm.modules.diffusionmodules.mmdit`, whose detection reads the
sizes back: width = 64 · depth, `depth` heads of 64 channels, `depth` blocks. diffusers' own converter turns it into
an `SD3Transformer2DModel`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

HEAD = 64
"""Channels of a head; ComfyUI derives the number of heads from it."""

STEPS = 1000
"""What a noise level σ is multiplied by before it is embedded."""

FREQUENCIES = 256


class MMDiT(nn.Module):
    """Text and image streams with their own weights, one softmax over both in every block (SD 3.5: normed q and k).

    depth     blocks, and heads of 64 channels.
    patch     side of a patch in latent cells; channels: of the latent.
    context   channels of the text tokens; pooled: of the pooled text.
    grid      side of the patch grid that positions are learned for; smaller grids are cut from its middle.
    """

    def __init__(self, *, depth: int, patch: int, channels: int, context: int, pooled: int, grid: int) -> None:
        super().__init__()
        width = HEAD * depth
        self.patch, self.grid, self.pooled = patch, grid, pooled
        self.x_embedder = PatchEmbedder(channels, width, patch)
        self.pos_embed = nn.Parameter(sine_positions(grid, width))
        self.t_embedder = Embedder(FREQUENCIES, width)
        self.y_embedder = Embedder(pooled, width)
        self.context_embedder = nn.Linear(context, width)
        self.joint_blocks = nn.ModuleList(
            [JointBlock(width, depth, last=index == depth - 1) for index in range(depth)]
        )
        self.final_layer = FinalLayer(width, patch * patch * channels)
        self.apply(initialise)
        for name, module in self.named_modules():
            if name.endswith("adaLN_modulation.1") or name == "final_layer.linear":
                nn.init.zeros_(module.weight)

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """x (B, C, H, W), σ (B,) in 0…1, context (B, L, D) → velocity, as x. The pooled text is all 0."""
        h, w = (side // self.patch for side in x.shape[2:])
        image = self.x_embedder(x) + self._positions(h, w)
        pooled = image.new_zeros(len(x), self.pooled)
        condition = self.t_embedder(frequencies(sigma * STEPS, FREQUENCIES).to(image)) + self.y_embedder(pooled)
        text = self.context_embedder(context)
        for block in self.joint_blocks:
            text, image = block(text, image, condition)
        cells = "b (h w) (p q c) -> b c (h p) (w q)"
        return rearrange(self.final_layer(image, condition), cells, h=h, w=w, p=self.patch, q=self.patch)

    def attentions(self) -> list[tuple[Attention, ...]]:
        """Per block: attention to text and patches at once."""
        return [(block.attention,) for block in self.joint_blocks]

    def _positions(self, h: int, w: int) -> Tensor:
        top, left = (self.grid - h) // 2, (self.grid - w) // 2
        table = rearrange(self.pos_embed, "one (h w) c -> one h w c", h=self.grid)
        return rearrange(table[:, top : top + h, left : left + w], "one h w c -> one (h w) c")


class JointBlock(nn.Module):
    """One block of both streams. `attention` is called with all queries and keys, the text's first: hook it."""

    def __init__(self, width: int, heads: int, last: bool) -> None:
        super().__init__()
        self.context_block = StreamBlock(width, heads, keys_only=last)
        self.x_block = StreamBlock(width, heads)
        self.attention = Attention()

    def forward(self, text: Tensor, image: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        text_heads, text_gates = self.context_block.before(text, condition)
        image_heads, image_gates = self.x_block.before(image, condition)
        both = [torch.cat(pair, dim=2) for pair in zip(text_heads, image_heads, strict=True)]
        attended = rearrange(self.attention(*both), "b h n d -> b n (h d)")
        text_part, image_part = attended.split([text.shape[1], image.shape[1]], dim=1)
        if text_gates is not None:
            text = self.context_block.after(text_part, text, text_gates)
        assert image_gates is not None
        return text, self.x_block.after(image_part, image, image_gates)


class Attention(nn.Module):
    """softmax(q kᵀ / √d) v of q, k, v (B, heads, N, d). A module, so that it can be observed by a hook."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.is_cuda:
            return F.scaled_dot_product_attention(q, k, v)
        return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v  # trains a quarter faster on CPUs


class StreamBlock(nn.Module):
    """What one stream has of a joint block; with `keys_only` it lends keys and values and ends there."""

    def __init__(self, width: int, heads: int, keys_only: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = Projections(width, heads, out=not keys_only)
        self.keys_only = keys_only
        if not keys_only:
            self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
            self.mlp = Mlp(width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, (2 if keys_only else 6) * width))

    def before(self, x: Tensor, condition: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...] | None]:
        """q, k, v (B, heads, N, d), and what `after` needs."""
        shift, scale, *gates = self.adaLN_modulation(condition).unsqueeze(1).chunk(2 if self.keys_only else 6, -1)
        heads = self.attn.heads_of(torch.addcmul(shift, self.norm1(x), 1 + scale))
        return heads, tuple(gates) or None

    def after(self, attended: Tensor, x: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
        gate, mlp_shift, mlp_scale, mlp_gate = gates
        x = x + gate * self.attn.proj(attended)
        return x + mlp_gate * self.mlp(torch.addcmul(mlp_shift, self.norm2(x), 1 + mlp_scale))


class Projections(nn.Module):
    """Queries and keys, normed, and values of one stream."""

    def __init__(self, width: int, heads: int, out: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.ln_q, self.ln_k = (nn.RMSNorm(width // heads, eps=1e-6) for _ in range(2))
        if out:
            self.proj = nn.Linear(width, width)

    def heads_of(self, x: Tensor) -> list[Tensor]:
        q, k, v = rearrange(self.qkv(x), "b n (s h d) -> s b h n d", s=3, h=self.heads).unbind(0)
        return [self.ln_q(q).to(v), self.ln_k(k).to(v), v]


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class PatchEmbedder(nn.Module):
    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return rearrange(self.proj(x), "b c h w -> b (h w) c")


class Embedder(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class FinalLayer(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, -1)
        return self.linear(torch.addcmul(shift, self.norm_final(x), 1 + scale))


def frequencies(t: Tensor, channels: int) -> Tensor:
    """Cosines, then sines of t (B,) at falling frequencies: (B, channels)."""
    half = channels // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def sine_positions(side: int, width: int) -> Tensor:
    """Where positions start from: sines and cosines of the column, then of the row: (1, side², width)."""
    rates = 10000.0 ** -(torch.arange(width // 4) / (width // 4))
    angles = torch.arange(side)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=-1)
    columns, rows = line.expand(side, -1, -1), line[:, None].expand(-1, side, -1)
    return rearrange(torch.cat([columns, rows], dim=-1), "h w c -> 1 (h w) c").clone()


def initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
