"""A sampler as any pipeline has it, an independent way to the maps, and what S-CFG should make of them."""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from scfg_core import Grid, LayerMaps, Segmentation, Settings, segment
from scfg_core.collect.layers import choose_layers
from scfg_core.hosts.diffusers.models import find_blocks


def context(images: int, tokens: int = 7) -> Tensor:
    """[unconditional; conditional] text (2·images, tokens, 12), every row different."""
    return torch.randn(2 * images, tokens, 12, generator=torch.Generator().manual_seed(1))


def noise(images: int, height: int = 16, width: int = 16) -> Tensor:
    return torch.randn(images, 4, height, width, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def sample(unet: nn.Module, scheduler: Any, text: Tensor, x: Tensor, scale: float = 5.0, steps: int = 3) -> Tensor:
    """Plain CFG, written as diffusers' pipelines write it."""
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        uncond, cond = unet(torch.cat([x, x]), t, encoder_hidden_states=text, return_dict=False)[0].chunk(2)
        x = scheduler.step(uncond + scale * (cond - uncond), t, x).prev_sample
    return x


class Storing:
    """diffusers' plain processor, which also keeps its probabilities, averaged over heads."""

    def __init__(self) -> None:
        self.maps = torch.empty(0)

    def __call__(
        self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(projection(source))
            for projection, source in ((attn.to_q, hidden_states), (attn.to_k, text), (attn.to_v, text))
        )
        weights = attn.get_attention_scores(q, k)
        self.maps = weights.reshape(len(hidden_states), attn.heads, *weights.shape[1:]).mean(dim=1)
        return attn.to_out[0](attn.batch_to_head_dim(weights @ v))


@torch.no_grad()
def stored_segmentation(unet: nn.Module, settings: Settings, grids: dict[int, Grid], *call: Tensor) -> Segmentation:
    """What `segment` says about the chosen layers' maps in this call, read in another way than the host does."""
    blocks = find_blocks(unet)
    chosen = choose_layers([block.info for block in blocks], "auto")
    blocks = [block for block in blocks if block.info.name in chosen]
    kept = [(block.attn1.processor, block.attn2.processor) for block in blocks]
    for block in blocks:
        block.attn1.processor, block.attn2.processor = Storing(), Storing()
    unet(*call)
    halves: list[list[LayerMaps]] = [[], []]
    for block, processors in zip(blocks, kept, strict=True):
        parts = zip(block.attn1.processor.maps.chunk(2), block.attn2.processor.maps.chunk(2), strict=True)
        for half, (own, cross) in zip(halves, parts, strict=True):
            half.append(LayerMaps(own, cross, grids[block.info.level]))
        block.attn1.processor, block.attn2.processor = processors
    uncond, cond = halves
    return segment(cond, uncond, settings)


class StoringJoint:
    """diffusers' plain joint processor, which also keeps its probabilities: patches × [text; image]."""

    def __init__(self) -> None:
        self.maps = torch.empty(0)

    def __call__(self, attn: Attention, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any):
        text = attn.norm_encoder_hidden_states(encoder_hidden_states) if attn.norm_cross else encoder_hidden_states
        patches = attn.group_norm(hidden_states.flatten(2)).transpose(1, 2)
        q, *kv = (
            attn.head_to_batch_dim(projection(source))
            for projection, source in (
                (attn.to_q, patches),
                (attn.add_k_proj, text),
                (attn.to_k, patches),
                (attn.add_v_proj, text),
                (attn.to_v, patches),
            )
        )
        weights = attn.get_attention_scores(q, torch.cat(kv[:2], dim=1))
        self.maps = weights.reshape(len(patches), attn.heads, *weights.shape[1:]).mean(dim=1)
        mixed = attn.to_out[0](attn.batch_to_head_dim(weights @ torch.cat(kv[2:], dim=1)))
        return mixed.transpose(1, 2).reshape(hidden_states.shape) + hidden_states


@torch.no_grad()
def joint_segmentation(
    unet: nn.Module, names: list[str], settings: Settings, grids: list[Grid], tokens: int, **call: Any
) -> Segmentation:
    """What `segment` says about these joint layers' maps in this call, without START."""
    layers = [unet.get_submodule(name) for name in names]
    kept = [layer.processor for layer in layers]
    for layer in layers:
        layer.processor = StoringJoint()
    unet(**call)
    halves: list[list[LayerMaps]] = [[], []]
    for layer, processor, grid in zip(layers, kept, grids, strict=True):
        for half, maps in zip(halves, layer.processor.maps.chunk(2), strict=True):
            cross, own = maps[..., :tokens], maps[..., tokens:]
            if settings.renormalise == "after_fusion":
                own = own / own.sum(dim=-1, keepdim=True)
            half.append(LayerMaps(own, cross, grid))
        layer.processor = processor
    uncond, cond = halves
    return segment(cond, uncond, settings, start_tokens=())
