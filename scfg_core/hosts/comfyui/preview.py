"""A small picture of what the model predicts, by the latent format's own linear map to RGB."""

from typing import Any

import torch.nn.functional as F
from einops import einsum, reduce
from torch import Tensor

LONGEST_SIDE = 256


def rgb_preview(latent: Tensor, latent_format: Any) -> Tensor:
    """(B, C, H, W) → (B, 3, h, w) uint8 on the same device, no side above 256; grey where no factors are known."""
    largest = max(latent.shape[2:])
    if largest > LONGEST_SIDE:
        sides = [max(1, side * LONGEST_SIDE // largest) for side in latent.shape[2:]]
        latent = F.interpolate(latent, size=sides, mode="area")
    latent = latent.float()
    factors = latent_format.latent_rgb_factors
    if factors is None or len(factors) != latent.shape[1]:
        grey = reduce(latent, "b c h w -> b 1 h w", "mean")
        rgb = (grey / grey.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)).expand(-1, 3, -1, -1)
    else:
        rgb = einsum(latent, latent.new_tensor(factors), "b c h w, c rgb -> b rgb h w")
        bias = getattr(latent_format, "latent_rgb_factors_bias", None)
        if bias is not None:
            rgb = rgb + latent.new_tensor(bias)[:, None, None]
    return ((rgb + 1) * 127.5).clamp(0, 255).byte()
