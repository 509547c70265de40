"""A small image of what the model predicts, by the latent format's own linear map to RGB."""

from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from torch import Tensor

LONGEST_SIDE = 256


class Preview:
    """The map of one latent format; its numbers go to the device once, for a GPU waits for every such copy."""

    def __init__(self, latent_format: Any) -> None:
        self._format = latent_format
        self._on_device: dict[torch.device, tuple[Tensor, Tensor | None]] = {}

    def __call__(self, latent: Tensor) -> Tensor:
        """(B, C, H, W) → (B, 3, h, w) uint8 on the same device, no side above 256; grey for an unknown format.

        Frames, (B, C, T, H, W), lie one below the other, as in the maps.
        """
        if latent.ndim == 5:
            latent = rearrange(latent, "b c t h w -> b c (t h) w")
        largest = max(latent.shape[2:])
        if largest > LONGEST_SIDE:
            sides = [max(1, side * LONGEST_SIDE // largest) for side in latent.shape[2:]]
            latent = F.interpolate(latent.float(), size=sides, mode="bilinear")
        latent = latent.float()
        factors = self._format.latent_rgb_factors
        if factors is None or len(factors) != latent.shape[1]:
            grey = reduce(latent, "b c h w -> b 1 h w", "mean")
            rgb = (grey / grey.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)).expand(-1, 3, -1, -1)
        else:
            matrix, bias = self._numbers(latent)
            rgb = einsum(latent, matrix, "b c h w, c rgb -> b rgb h w")
            if bias is not None:
                rgb = rgb + bias[:, None, None]
        return ((rgb + 1) * 127.5).clamp(0, 255).byte()

    def _numbers(self, latent: Tensor) -> tuple[Tensor, Tensor | None]:
        """Factors (C, 3) and bias (3,) beside the latent."""
        if latent.device not in self._on_device:
            bias = getattr(self._format, "latent_rgb_factors_bias", None)
            self._on_device[latent.device] = (
                latent.new_tensor(self._format.latent_rgb_factors),
                None if bias is None else latent.new_tensor(bias),
            )
        return self._on_device[latent.device]
