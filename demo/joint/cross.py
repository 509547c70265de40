"""A transformer with separate attention to the text, in the layout of Anima and Cosmos-Predict2.

Its state dict has the names of ComfyUI's `comfy.ldm.cosmos.predict2.MiniTrainDIT`, which Anima's class extends by
an adapter of its text. Nothing that makes keys and values has a bias, so a text column of zeros has a key and a
value of exactly zero: padding, which takes its share of the attention and says nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .mmdit import HEAD, Attention, frequencies, initialise

LORA = 64
"""Rank of the modulation."""


class CrossDiT(nn.Module):
    """Self-attention with rotary positions, attention to the text, and an MLP, each modulated by the noise level.

    depth     blocks, and heads of 64 channels; the width is 64 · depth.
    patch     side of a patch in latent cells; channels: of the latent; context: of the text tokens.
    """

    def __init__(self, *, depth: int, patch: int, channels: int, context: int) -> None:
        super().__init__()
        width = HEAD * depth
        self.patch = patch
        inputs = (channels + 1) * patch * patch  # the host adds a mask of what is padded
        self.x_embedder = nn.ModuleDict({"proj": _second(nn.Linear(inputs, width, bias=False))})
        self.t_embedder = _second(TimeEmbedding(width))
        self.t_embedding_norm = nn.RMSNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList([Block(width, depth, context) for _ in range(depth)])
        self.final_layer = FinalLayer(width, patch * patch * channels)
        self.apply(initialise)
        for name, parameter in self.named_parameters():
            if "adaln_modulation" in name and name.endswith("2.weight") or name == "final_layer.linear.weight":
                nn.init.zeros_(parameter)
        nn.init.zeros_(self.t_embedder[1].linear_2.weight)

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """x (B, C, H, W), σ (B,) in 0…1, context (B, L, D) → velocity, as x."""
        h, w = (side // self.patch for side in x.shape[2:])
        masked = F.pad(x, (0, 0, 0, 0, 0, 1))
        cells = rearrange(masked, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch, q=self.patch)
        image = self.x_embedder["proj"][1](cells)
        time, lora = self.t_embedder[1](frequencies(sigma, image.shape[-1]).to(image))
        time, angles = self.t_embedding_norm(time), rotary_angles(h, w, x.device)
        for block in self.blocks:
            image = block(image, context, time, lora, angles)
        cells = "b (h w) (p q c) -> b c (h p) (w q)"
        return rearrange(self.final_layer(image, time, lora), cells, h=h, w=w, p=self.patch, q=self.patch)

    def attentions(self) -> list[tuple[Attention, ...]]:
        """Per block: attention to the patches, then to the text."""
        return [(block.self_attn.attention, block.cross_attn.attention) for block in self.blocks]


class TimeEmbedding(nn.Module):
    """What the modulation is made of: the frequencies themselves, and a learned part that all layers share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width, bias=False)
        self.linear_2 = nn.Linear(width, 3 * width, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.linear_2(F.silu(self.linear_1(x)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.self_attn = Projections(width, width, heads)
        self.cross_attn = Projections(width, context, heads)
        self.mlp = nn.ModuleDict(
            {
                "layer1": nn.Linear(width, 4 * width, bias=False),
                "layer2": nn.Linear(4 * width, width, bias=False),
            }
        )
        self.adaln_modulation_self_attn = modulation(width, 3)
        self.adaln_modulation_cross_attn = modulation(width, 3)
        self.adaln_modulation_mlp = modulation(width, 3)

    def forward(self, x: Tensor, context: Tensor, time: Tensor, lora: Tensor, angles: Tensor) -> Tensor:
        shift, scale, gate = (self.adaln_modulation_self_attn(time) + lora).unsqueeze(1).chunk(3, -1)
        x = x + gate * self.self_attn(modulated(x, shift, scale), None, angles)
        shift, scale, gate = (self.adaln_modulation_cross_attn(time) + lora).unsqueeze(1).chunk(3, -1)
        x = x + gate * self.cross_attn(modulated(x, shift, scale), context)
        shift, scale, gate = (self.adaln_modulation_mlp(time) + lora).unsqueeze(1).chunk(3, -1)
        hidden = F.gelu(self.mlp["layer1"](modulated(x, shift, scale)))
        return x + gate * self.mlp["layer2"](hidden)


class Projections(nn.Module):
    """Attention with normed queries and keys. `attention` is called with all of them: hook it."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.q_norm, self.k_norm = (nn.RMSNorm(width // heads, eps=1e-6) for _ in range(2))
        self.output_proj = nn.Linear(width, width, bias=False)
        self.attention = Attention()

    def forward(self, x: Tensor, context: Tensor | None, angles: Tensor | None = None) -> Tensor:
        seen = x if context is None else context
        q, k, v = (
            rearrange(project(source), "b n (h d) -> b h n d", h=self.heads)
            for project, source in ((self.q_proj, x), (self.k_proj, seen), (self.v_proj, seen))
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotated(q, angles), rotated(k, angles)
        attended = self.attention(q.to(v), k.to(v), v)
        return self.output_proj(rearrange(attended, "b h n d -> b n (h d)"))


class FinalLayer(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels, bias=False)
        self.adaln_modulation = modulation(width, 2)

    def forward(self, x: Tensor, time: Tensor, lora: Tensor) -> Tensor:
        width = x.shape[-1]
        shift, scale = (self.adaln_modulation(time) + lora[:, : 2 * width]).unsqueeze(1).chunk(2, -1)
        return self.linear(modulated(x, shift, scale))


def modulation(width: int, parts: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, LORA, bias=False), nn.Linear(LORA, parts * width, bias=False))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


def rotary_angles(h: int, w: int, device: torch.device) -> Tensor:
    """Angles of every patch, (h·w, 32): the first 12 for the frame, which is always 0, then 10 for the row, 10 for
    the column."""
    side = HEAD // 6 * 2
    rates = 10000.0 ** -(torch.arange(0, side, 2, device=device) / side)
    rows = torch.arange(h, device=device)[:, None, None] * rates
    columns = torch.arange(w, device=device)[None, :, None] * rates
    frames = torch.zeros(h, w, HEAD // 2 - side, device=device)
    angles = torch.cat([frames, rows.expand(h, w, -1), columns.expand(h, w, -1)], dim=-1)
    return rearrange(angles, "h w d -> (h w) d")


def rotated(x: Tensor, angles: Tensor) -> Tensor:
    """x (B, heads, N, 64), channel i turned against channel i + 32."""
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def _second(module: nn.Module) -> nn.ModuleList:
    """The module under the name "1": in the host a function without weights stands before it."""
    return nn.ModuleList([nn.Identity(), module])
