"""Processors, weights and layers that others put into the U-Net: kept as they are, and seen as they act."""

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, IPAdapterAttnProcessor2_0
from torch import nn

from scfg_core import Grid, Note, Settings
from scfg_core.hosts.diffusers import scfg

from .loop import context, noise, sample, stored_segmentation
from .states import state
from .tiny import WIDTH, arguments, make, random

WATCH = Settings(strength=0)


class Own:
    """A processor that nobody knows: it asks the layer's projections, then attends in its own way."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        self.calls += 1
        return AttnProcessor()(attn, hidden_states, encoder_hidden_states) * 0.5


def test_a_processor_of_ones_own_is_kept_and_called(unet, scheduler):
    own = Own()
    unet.set_attn_processor(own)
    plain, calls = sample(unet, scheduler, context(1), noise(1)), own.calls
    before = state(unet)
    with scfg(unet, WATCH, guidance_scale=5, scheduler=scheduler) as run:
        assert torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)
    assert own.calls == 2 * calls
    assert len(run.evaluations) == 3
    assert state(unet) == before


def test_a_processor_that_never_asks_the_projections_is_not_seen_and_this_is_said(unet, scheduler):
    unet.set_attn_processor(lambda attn, hidden_states, *_, **__: hidden_states)
    plain = sample(unet, scheduler, context(1), noise(1))
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        assert torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)
    assert run.notes == [Note.NO_MAPS.text]


def ip_adapter(unet):
    """Random IP-Adapter weights in their published layout, 4 image tokens."""
    weights = {}
    for index, name in enumerate(unet.attn_processors):
        if "attn2" in name:
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.in_features
            for part in ("k", "v"):
                weights[f"{index}.to_{part}_ip.weight"] = random(width, WIDTH, seed=index) * 0.3
    image = {"proj.weight": random(4 * WIDTH, 6), "proj.bias": random(4 * WIDTH)}
    return {
        "image_proj": image | {"norm.weight": torch.ones(WIDTH), "norm.bias": torch.zeros(WIDTH)},
        "ip_adapter": weights,
    }


def test_an_ip_adapter_keeps_acting_and_does_not_blur_the_words():
    pipe = make("SD 1.5")
    without = arguments("SD 1.5")
    with scfg(pipe) as run:
        plain = pipe(**without).images
    first = run.evaluations[0].labels
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe.unet)], low_cpu_mem_usage=False)
    assert any(isinstance(each, IPAdapterAttnProcessor2_0) for each in pipe.unet.attn_processors.values())
    before = state(pipe.unet)
    call = arguments("SD 1.5") | {"ip_adapter_image_embeds": [random(2, 1, 6, seed=7)]}
    adapted = pipe(**call).images
    call["generator"].manual_seed(3)
    with scfg(pipe, WATCH) as run:
        assert torch.equal(pipe(**call).images, adapted)
    call["generator"].manual_seed(3)
    with scfg(pipe) as run:
        guided = pipe(**call).images
    assert not torch.equal(guided, adapted)
    assert not torch.equal(guided, plain)
    assert not run.notes
    assert run.evaluations[0].labels.max() < 7, "image tokens are no words"
    assert run.evaluations[0].labels.shape == first.shape
    assert state(pipe.unet) == before


class LowRank(nn.Module):
    """A projection with low-rank weights beside it, as LoRA loaders wrap it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x) + 3 * self.up(self.down(x))


@torch.no_grad()
def test_low_rank_weights_are_part_of_what_is_seen(unet, scheduler):
    x, text, t = noise(1).repeat(2, 1, 1, 1), context(1), torch.tensor(700)
    grids = {1: Grid(8, 8), 2: Grid(4, 4)}
    bare = stored_segmentation(unet, Settings(), grids, x, t, text).labels
    for module in list(unet.modules()):
        if hasattr(module, "to_q"):
            module.to_q, module.to_k = LowRank(module.to_q), LowRank(module.to_k)
    expected = stored_segmentation(unet, Settings(), grids, x, t, text).labels
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        unet(x, t, text)
    assert not torch.equal(expected, bare)
    assert torch.equal(run.evaluations[0].labels.long(), expected)


def test_peft_layers_are_seen_and_left_as_they_were(unet, scheduler):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
    bare = sample(unet, scheduler, context(1), noise(1))
    unet.add_adapter(config)
    plain, before = sample(unet, scheduler, context(1), noise(1)), state(unet)
    assert not torch.equal(plain, bare)
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        assert not torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)
    assert len(run.evaluations) == 3
    assert state(unet) == before
    assert torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)


class Merging:
    """Self-attention of every second patch, as token merging does it."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        plain = AttnProcessor()
        if encoder_hidden_states is not None:
            return plain(attn, hidden_states, encoder_hidden_states)
        return plain(attn, hidden_states[:, ::2]).repeat_interleave(2, dim=1)


def test_layers_that_attend_to_merged_patches_are_left_out(unet, scheduler):
    merged = [name for name in unet.attn_processors if name.startswith("down_blocks.1") and "attn1" in name]
    unet.set_attn_processor(
        {name: Merging() if name in merged else AttnProcessor() for name in unet.attn_processors}
    )
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        sample(unet, scheduler, context(1), noise(1))
    assert merged
    assert run.notes == [Note.LAYER_SKIPPED.text]
    assert len(run.evaluations) == 3
    assert all(each.fresh for each in run.evaluations)
    unet.set_attn_processor(Merging())
    plain = sample(unet, scheduler, context(1), noise(1))
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        assert torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)
    assert run.notes == [Note.LAYER_SKIPPED.text, Note.NO_MAPS.text]
