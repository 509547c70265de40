"""Sampling from the demo model in large batches, on any device, by every formula of guidance that is compared.

S-CFG comes in through the product's diffusers host, which replaces ε(x, c) by ε'; CFG, RescaleCFG and APG are the
host's own formulas, the last two as diffusers has them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from einops import rearrange
from torch import Tensor

from demo.model import DemoModel, load_model
from demo.wavelet import CHANNELS, decode
from demo.world import SIZE
from scfg_core import Segmentation, Settings
from scfg_core.hosts.diffusers import scfg
from scfg_core.run.record import Run

APG_MOMENTUM, APG_THRESHOLD, APG_PARALLEL = -0.5, 15.0, 0.0
"""β, r and η of APG's paper for Stable Diffusion."""


@dataclass(frozen=True)
class Formula:
    """How the two predictions are combined: CFG, with φ = `rescale` of RescaleCFG, or APG where `projected`."""

    rescale: float = 0.0
    projected: bool = False


def load_fast(path, device: torch.device | str) -> DemoModel:
    """The model with fused attention and channels last: a fifth faster, equal to rounding."""
    model = load_model(path, device)
    model.unet.set_attn_processor(AttnProcessor2_0())
    model.unet.to(memory_format=torch.channels_last)
    return model


def starting_noise(seeds: list[int], device: torch.device | str = "cpu") -> Tensor:
    """Latents of noise (B, 12, 32, 32), one per seed, the same on every device and in any batch."""
    shape = (CHANNELS, SIZE // 2, SIZE // 2)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(noise).to(device)


def schedule(model: DemoModel, steps: int, device: torch.device | str = "cpu") -> DDIMScheduler:
    """DDIM from the very last timestep on ("trailing", arXiv 2305.08891)."""
    scheduler = DDIMScheduler(**model.scheduler_config, timestep_spacing="trailing")
    scheduler.set_timesteps(steps, device=device)
    return scheduler


@torch.no_grad()
def sample(
    model: DemoModel,
    tokens: Tensor,
    noise: Tensor,
    scales: list[float],
    *,
    settings: Settings | None = None,
    formula: Formula = Formula(),  # noqa: B008
    steps: int = 20,
    half: bool = True,
    resegment: Callable[[Segmentation], Segmentation] | None = None,
) -> tuple[Tensor, Run | None]:
    """Images (B, 3, 64, 64), range about −1…1, and the record of S-CFG.

    tokens    ids (B, 24); noise (B, 12, 32, 32), on the model's device.
    scales    γ of every image; with S-CFG they are all alike. Where all are 1 the model is asked once a step.
    settings  of S-CFG; None = none.
    half      the network in bfloat16, which takes half the time on CPUs that know it, too; predictions are float32.
    """
    scheduler, guided = schedule(model, steps, noise.device), any(scale != 1 for scale in scales)
    texts = model.tokenizer([""] * len(tokens)).to(tokens)
    context = model.text_encoder(torch.cat([texts, tokens]) if guided else tokens)
    combine = _combiner(formula, scales, noise.device)
    attached = nullcontext()
    if settings is not None and guided:
        attached = scfg(model.unet, settings, guidance_scale=scales[0], scheduler=scheduler, resegment=resegment)
    x = noise
    with attached as run, torch.autocast(noise.device.type, torch.bfloat16, enabled=half):
        for t in scheduler.timesteps:
            rows = torch.cat([x, x]) if guided else x
            rows = rows.contiguous(memory_format=torch.channels_last)
            predicted = model.unet(rows, t, encoder_hidden_states=context).sample.float()
            if guided:
                predicted = combine(*predicted.chunk(2), x, scheduler.alphas_cumprod[int(t)])
            x = scheduler.step(predicted, t, x).prev_sample
    return decode(x), run


Combine = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(v of the empty prompt, v of the prompt, x, ᾱ) → guided v."""


def _combiner(formula: Formula, scales: list[float], device: torch.device) -> Combine:
    gamma = rearrange(torch.tensor(scales, device=device), "b -> b 1 1 1")
    momentum = MomentumBuffer(APG_MOMENTUM)

    def cfg(uncond: Tensor, cond: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        guided = uncond + gamma * (cond - uncond)
        return rescale_noise_cfg(guided, cond, formula.rescale) if formula.rescale else guided

    def apg(uncond: Tensor, cond: Tensor, x: Tensor, alpha: Tensor) -> Tensor:
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        clean = [signal * x - noise * velocity for velocity in (cond, uncond)]
        guided = normalized_guidance(*clean, gamma - 1, momentum, APG_PARALLEL, APG_THRESHOLD, True)
        return (signal * x - guided) / noise

    return apg if formula.projected else cfg
