"""Images from the demo model with diffusers' samplers, by CFG or S-CFG, and what happened on the way."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from scfg_core import Collection, Prompt, Run, Segmentation, Settings, scfg
from scfg_core.hosts.diffusers.schedule import Schedule

from .model import DemoModel
from .text import Tokenizer, phrases
from .wavelet import CHANNELS, decode
from .words import VOCABULARY
from .world import SIZE

SAMPLERS = {"ddim": DDIMScheduler, "dpmpp": DPMSolverMultistepScheduler}


@dataclass(frozen=True)
class Sampled:
    """Final latents (B, 12, 32, 32), with the noisy latents and the predicted x0 (B, 12, 32, 32) of every step.

    run: the record of S-CFG; None for CFG.
    """

    latents: Tensor
    timesteps: list[int]
    inputs: list[Tensor]
    clean: list[Tensor]
    run: Run | None

    @property
    def images(self) -> Tensor:
        """The final images (B, 3, 64, 64), range about −1…1."""
        return decode(self.latents)


def make_scheduler(model: DemoModel, sampler: str) -> Any:
    """The sampler of this name with the model's own noise schedule, as far as it knows such an option."""
    kind = SAMPLERS[sampler]
    known = inspect.signature(kind.__init__).parameters
    return kind(**{name: value for name, value in model.scheduler_config.items() if name in known})


def starting_noise(seeds: list[int]) -> Tensor:
    """Latents of noise, one per seed, the same in any batch: (B, 12, 32, 32)."""
    shape = (CHANNELS, SIZE // 2, SIZE // 2)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    model: DemoModel,
    prompts: list[str],
    noise: Tensor,
    *,
    scale: float | Tensor,
    settings: Settings | None = None,
    steps: int = 30,
    sampler: str = "ddim",
    resegment: Callable[[Segmentation], Segmentation] | None = None,
    advance: Callable[[], Any] = lambda: None,
) -> Sampled:
    """Sample one image per prompt.

    noise     (B, 12, 32, 32).
    scale     γ; a tensor (B,) gives every image its own, for CFG only.
    settings  of S-CFG; None = CFG.
    resegment what takes the place of S-CFG's own regions.
    advance   is called after every step.
    """
    scheduler = make_scheduler(model, sampler)
    scheduler.set_timesteps(steps)
    context = model.text_encoder(model.tokenizer([""] * len(prompts) + prompts))
    gamma = torch.as_tensor(scale, dtype=torch.float32).reshape(-1, 1, 1, 1)
    guided = nullcontext()
    if settings is not None:
        prompt = tokenized(model.tokenizer, prompts[0]) if len(prompts) == 1 else None
        guided = scfg(
            model.unet,
            settings,
            guidance_scale=float(gamma),
            scheduler=scheduler,
            prompt=prompt,
            resegment=resegment,
        )
    x, inputs, clean = noise, [], []
    with guided as run:
        for t in scheduler.timesteps:
            inputs.append(x)
            uncond, cond = model.unet(torch.cat([x, x]), t, encoder_hidden_states=context).sample.chunk(2)
            predicted = uncond + gamma * (cond - uncond)
            clean.append(Schedule.of(scheduler).level(float(t)).clean(x, predicted))
            x = scheduler.step(predicted, t, x).prev_sample
            advance()
    return Sampled(x, [int(t) for t in scheduler.timesteps], inputs, clean, run)


@torch.no_grad()
def watch_again(
    model: DemoModel, prompt: str, sampled: Sampled, steps: list[int], power_weights: tuple[float, ...]
) -> Run:
    """The record of these steps of a finished sampling, as if its maps had been propagated with other weights."""
    scheduler = make_scheduler(model, "ddim")
    scheduler.set_timesteps(len(sampled.timesteps))
    context = model.text_encoder(model.tokenizer(["", prompt]))
    assert sampled.run is not None
    with scfg(
        model.unet,
        replace(Settings.preset("paper"), strength=0.0),
        guidance_scale=sampled.run.evaluations[0].guidance_scale,
        scheduler=scheduler,
        collection=Collection(power_weights=power_weights),
        prompt=tokenized(model.tokenizer, prompt),
    ) as run:
        for step in steps:
            x = sampled.inputs[step]
            model.unet(torch.cat([x, x]), sampled.timesteps[step], encoder_hidden_states=context)
    return run


def tokenized(tokenizer: Tokenizer, prompt: str) -> Prompt:
    """The prompt's tokens as a legend names them: those of a phrase together, "a red house"."""
    ids = tokenizer([prompt])[0].tolist()
    texts, numbers = [VOCABULARY[token] for token in ids], [-1] * len(ids)
    place = 1
    for number, phrase in enumerate(phrases(tokenizer.words(prompt))):
        for _ in phrase:
            texts[place], numbers[place] = " ".join(phrase), number
            place += 1
    return Prompt.plain("cond", len(ids), (0,), texts, numbers)


def to_pixels(image: Tensor) -> Any:
    """An image (3, h, w) in −1…1 as an array (h, w, 3) of uint8."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
