"""The demo model's latent space: an orthonormal Haar wavelet in place of a VAE, exactly invertible."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

CHANNELS = 12
LOW, HIGH = 0.9, 2.2
"""What the low band and the details are multiplied by, so that details, which are faint, are learned early."""


def encode(images: Tensor) -> Tensor:
    """Images (B, 3, 2h, 2w), range −1…1 → latents (B, 12, h, w): low band, details along x, along y, along both."""
    a, b, c, d = rearrange(images, "b c (h y) (w x) -> (y x) b c h w", y=2, x=2)
    low = (a + b + c + d) / 2
    details = torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 2
    return torch.cat([low * LOW, details * HIGH], dim=1)


def decode(latents: Tensor) -> Tensor:
    """Latents (B, 12, h, w) → images (B, 3, 2h, 2w)."""
    low = latents[:, :3] / LOW
    x, y, both = (latents[:, 3:] / HIGH).chunk(3, dim=1)
    corners = torch.stack([low + x + y + both, low - x + y - both, low + x - y - both, low - x - y + both]) / 2
    return rearrange(corners, "(y x) b c h w -> b c (h y) (w x)", y=2, x=2)
