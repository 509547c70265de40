"""True scenes noised to a step t, and what S-CFG sees of them in one evaluation of the U-Net."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from demo.drawing import to_float
from demo.model import DemoModel
from demo.wavelet import encode
from demo.world import Scenes, captions, held_out_scenes
from scfg_core import Settings
from scfg_core.hosts.diffusers import scfg
from scfg_core.run.record import Run

from .sampling import schedule
from .truth import draw_scenes

WATCHED_SCALE = 5.0
"""Any γ above 1: nothing is changed, S-CFG only watches."""


@dataclass(frozen=True)
class TrueScenes:
    """N held-out scenes.

    latents  (N, 12, 32, 32); tokens, token_owners (N, 24); patches (N, 16, 16): the owner that covers most of each.
    """

    scenes: Scenes
    latents: Tensor
    tokens: Tensor
    token_owners: Tensor
    patches: Tensor

    @classmethod
    def held_out(cls, count: int, seed: int) -> TrueScenes:
        scenes = held_out_scenes(count, seed)
        images, patches = draw_scenes(scenes, seed + 1)
        return cls(scenes, encode(to_float(images)), *captions(scenes), patches)

    def __len__(self) -> int:
        return len(self.scenes)


@torch.no_grad()
def watch_noised(model: DemoModel, true: TrueScenes, t: int, settings: Settings, batch: int = 32) -> list[Run]:
    """The records, by batch, of one evaluation at step t, with the scenes' captions and the empty prompt."""
    scheduler = schedule(model, 1)
    alpha = scheduler.alphas_cumprod[t]
    noise = torch.randn(true.latents.shape, generator=torch.Generator().manual_seed(t))
    noised = alpha.sqrt() * true.latents + (1 - alpha).sqrt() * noise
    runs = []
    for x, tokens in zip(noised.split(batch), true.tokens.split(batch), strict=True):
        context = model.text_encoder(torch.cat([model.tokenizer([""] * len(x)), tokens]))
        watching = replace(settings, strength=0.0)
        with scfg(model.unet, watching, guidance_scale=WATCHED_SCALE, scheduler=scheduler) as run:
            model.unet(torch.cat([x, x]), t, encoder_hidden_states=context)
        runs.append(run)
    return runs
