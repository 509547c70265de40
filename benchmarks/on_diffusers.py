"""diffusers as the host of a benchmark, where there is no ComfyUI: bare U-Nets with random weights, DDIM, CFG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from scfg_core import Grid, Settings
from scfg_core.collect.layers import choose_layers
from scfg_core.hosts.diffusers import scfg
from scfg_core.hosts.diffusers.models import find_blocks
from scfg_core.hosts.diffusers.watching import SEPARATE, watch_projections

from .naive import NaiveMaps
from .random_weights import fill

CFG = 7.0
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd15": {
        "block_out_channels": (320, 640, 1280, 1280),
        "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sdxl": {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
        "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}


def start(device: str) -> str | None:
    """A line that says why diffusers cannot be used, else None."""
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        return f"neither a ComfyUI nor diffusers: {error}"
    return None


def facts() -> dict[str, str]:
    import diffusers

    return {"host": f"diffusers {diffusers.__version__}", "attention": "AttnProcessor2_0"}


def build(name: str, dtype: torch.dtype, device: str) -> Any:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**LAYOUTS[name])
    unet = unet.to(dtype).to_empty(device=device)
    fill(unet)
    return unet.requires_grad_(False).eval()


class Host:
    """One model; `sample` runs a few evaluations of CFG in one of the variants: see `comfyui.Host`."""

    calls = 0

    def __init__(
        self, name: str, dtype: torch.dtype, device: str, around: Callable[[Callable[[], Tensor]], Tensor]
    ):
        from diffusers import DDIMScheduler

        self.name = name
        self._around = around
        self._unet = build(name, dtype, device)
        blocks = find_blocks(self._unet)
        names = choose_layers([block.info for block in blocks], "auto")
        self.watched = [
            block.tower.get_submodule(f"transformer_blocks.{block.info.name.rsplit('.', 1)[1]}")
            for block in blocks
            if block.info.name in names
        ]
        self._scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)
        generator = torch.Generator().manual_seed(1)
        width = LAYOUTS[name]["cross_attention_dim"]
        self._call: dict[str, Any] = {
            "encoder_hidden_states": torch.randn(2, 77, width, generator=generator).to(device, dtype)
        }
        if name == "sdxl":
            pooled = torch.randn(2, 1280, generator=generator).to(device, dtype)
            self._call["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.zeros(2, 6, device=device)}

    @torch.no_grad()
    def sample(self, variant: str, side: int, evaluations: int, images: int = 1) -> Tensor:
        """`evaluations` steps of DDIM on latents of side × side."""
        self.calls = 0
        self._scheduler.set_timesteps(evaluations)
        x = torch.randn(images, 4, side, side, generator=torch.Generator().manual_seed(0)).to(self._unet.device)
        call = tree_map(lambda tensor: tensor.repeat_interleave(images, dim=0), self._call)
        step = partial(self._naive_step if variant == "naive" else self._step, call)
        if variant in ("watch", "scfg"):
            settings = Settings() if variant == "scfg" else replace(Settings(), strength=0.0)
            with scfg(self._unet, settings, guidance_scale=CFG, scheduler=self._scheduler):
                return self._loop(x, step)
        return self._loop(x, step)

    def _loop(self, x: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        for t in self._scheduler.timesteps:
            predicted = self._around(lambda x=x, t=t: step(x, t))
            x = self._scheduler.step(predicted, t, x).prev_sample
        return x

    def _predict(self, call: dict[str, Any], x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        rows = torch.cat([x, x]).to(self._unet.dtype)
        uncond, cond = self._unet(rows, t, **call).sample.float().chunk(2)
        return uncond, cond

    def _step(self, call: dict[str, Any], x: Tensor, t: Tensor) -> Tensor:
        uncond, cond = self._predict(call, x, t)
        return uncond + CFG * (cond - uncond)

    def _naive_step(self, call: dict[str, Any], x: Tensor, t: Tensor) -> Tensor:
        maps, hooks = NaiveMaps(), []
        blocks = find_blocks(self._unet)
        names = choose_layers([block.info for block in blocks], "all")
        for block in blocks:
            side = x.shape[-1] >> block.info.level
            for kind in ("attn1", "attn2") if block.info.name in names else ():

                def seen(q: Tensor, k: Tensor, _: float, block=block, side=side, kind=kind) -> None:
                    maps.see(block.info.name, q, k, Grid(side, side), kind)

                hooks += watch_projections(getattr(block, kind), SEPARATE, lambda: True, seen, _failed)
        uncond, cond = self._predict(call, x, t)
        for hook in hooks:
            hook.remove()
        return uncond + CFG * maps.ratio(cond, uncond, CFG, cond_first=False) * (cond - uncond)


def _failed(error: Exception) -> None:
    raise error
