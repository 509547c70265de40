"""Noise levels and predictions as ComfyUI has them."""

from typing import Any

from torch import Tensor

from ...grid import Grid
from ...method.settings import Settings
from ...run.noise import NoiseLevel
from ...run.predictions import Predictions


class NoiseLevels:
    """Those of one run: between which S-CFG acts, and what a prediction is at each of them."""

    def __init__(self, patcher: Any, settings: Settings) -> None:
        from comfy.model_sampling import CONST

        sampling = patcher.get_model_object("model_sampling")
        self._flow = isinstance(sampling, CONST)
        self._range: tuple[float, float] | None = None
        if (settings.start, settings.end) != (0, 1):
            highest, lowest = (sampling.percent_to_sigma(part) for part in (settings.start, settings.end))
            self._range = float(highest), float(lowest)

    def within_range(self, sigma: Tensor) -> bool:
        """Whether S-CFG acts now; reads sigma off the device only where a range was asked for."""
        if self._range is None:
            return True
        highest, lowest = self._range
        return lowest <= float(sigma.flatten()[0]) <= highest

    def predictions(self, args: dict, active: bool) -> Predictions:
        """Both predictions of a CFG function's arguments, which are x0 in ComfyUI: x = x0 + σε, or
        (1 − σ)·x0 + σε for flow models.
        """
        x = args["input"]
        sigma = args["sigma"].reshape(-1, *[1] * (x.ndim - 1)).to(x)
        noise = NoiseLevel(1 - sigma if self._flow else 1.0, sigma, "sample")
        scale = float(args["cond_scale"])
        cond, uncond = args["cond_denoised"], args["uncond_denoised"]
        return Predictions(x, cond, uncond, noise, args["sigma"], scale, active)


def grid_of(latent: Tensor) -> Grid:
    """Cells of a latent (B, C, H, W) or (B, C, T, H, W), its frames one below the other."""
    frames = latent.shape[2] if latent.ndim == 5 else 1
    return Grid(frames * latent.shape[-2], latent.shape[-1], frames)
