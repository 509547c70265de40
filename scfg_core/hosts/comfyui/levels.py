"""Latents, noise levels and predictions as ComfyUI has them."""

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...grid import Grid
from ...run.noise import NoiseLevel
from ...run.predictions import Predictions


def is_flow(patcher: Any) -> bool:
    """Whether a model was trained by flow matching."""
    from comfy.model_sampling import CONST

    return isinstance(patcher.get_model_object("model_sampling"), CONST)


def predictions_of(args: dict, flow: bool, active: bool, within: Callable[[float, float], bool]) -> Predictions:
    """Both predictions of a CFG function's arguments, which are x0 in ComfyUI: x = x0 + σε, or (1 − σ)·x0 + σε for
    flow models. `active`, `within`: see `Predictions`; at cfg 1 nothing is active.
    """
    x = args["input"]
    sigma = args["sigma"].reshape(-1, *[1] * (x.ndim - 1)).to(x)
    noise = NoiseLevel(1 - sigma if flow else 1.0, sigma, "sample")
    scale = float(args["cond_scale"])
    cond, uncond = args["cond_denoised"], args["uncond_denoised"]
    return Predictions(x, cond, uncond, noise, args["sigma"], scale, active and not is_one(scale), within)


def is_one(scale: float) -> bool:
    """Whether a cfg is 1 as the host sees it: the conditional prediction alone, with no guidance to scale."""
    return math.isclose(scale, 1.0)


def grid_of(latent: Tensor) -> Grid:
    """Cells of a latent (B, C, H, W) or (B, C, T, H, W), its frames one below the other."""
    frames = latent.shape[2] if latent.ndim == 5 else 1
    return Grid(frames * latent.shape[-2], latent.shape[-1], frames)
