"""The demo model, sampled as any pipeline does it, under whatever way of collecting maps."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from demo.model import DemoModel
from demo.sample import make_scheduler, starting_noise
from demo.wavelet import decode
from scfg_core import Settings
from scfg_core.hosts.diffusers import scfg
from scfg_core.run.record import Run
from scfg_core.run.session import Collection

SCALE = 5.0
PROMPTS = ["a red boat and a blue cat", "a green star", "a yellow tent and a purple balloon at night"]
"""What the demo model is asked for, unless prompts are given."""


@torch.no_grad()
def sample(
    model: DemoModel, prompt: str, settings: Settings | None, collection: Collection, steps: int, seed: int = 0
) -> tuple[Tensor, Run | None]:
    """An image (1, 3, 64, 64) by DDIM, and S-CFG's closed record; settings None = plain CFG."""
    scheduler = make_scheduler(model, "ddim")
    scheduler.set_timesteps(steps)
    context = model.text_encoder(model.tokenizer(["", prompt]))
    x = starting_noise([seed])
    guided = nullcontext()
    if settings is not None:
        guided = scfg(model.unet, settings, guidance_scale=SCALE, scheduler=scheduler, collection=collection)
    with guided as run:
        for t in scheduler.timesteps:
            uncond, cond = model.unet(torch.cat([x, x]), t, encoder_hidden_states=context).sample.chunk(2)
            x = scheduler.step(uncond + SCALE * (cond - uncond), t, x).prev_sample
    if run is not None:
        run.close()
    return decode(x), run
