"""DeepFloyd IF: joint attention, no START, a learned variance."""

import pytest
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.models.attention_processor import AttnAddedKVProcessor, SlicedAttnAddedKVProcessor

from scfg_core import PRESETS, Grid, Note, ScfgError, Settings, ratio_map, rescale
from scfg_core.hosts.diffusers import scfg

from .loop import joint_segmentation
from .tiny import WIDTH, floyd_unet, make, random, sample

CHOSEN = [
    "down_blocks.1.attentions.0",
    "down_blocks.2.attentions.0",
    "mid_block.attentions.0",
    *(f"up_blocks.{block}.attentions.{index}" for block in (0, 1) for index in (0, 1)),
]
LEVELS = [1, 2, 2, 2, 2, 1, 1]


@pytest.fixture
def scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range")


def call_of(stage: int, height: int = 16, width: int = 16, images: int = 2) -> dict:
    call = {
        "sample": random(images, 3 * stage, height, width).repeat(2, 1, 1, 1),
        "timestep": torch.tensor(600),
        "encoder_hidden_states": random(2 * images, 7, WIDTH, seed=2),
    }
    return call if stage == 1 else call | {"class_labels": torch.full((2 * images,), 100)}


def unet_of(stage: int, **more):
    torch.manual_seed(0)
    return floyd_unet(stage, **more)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize("stage", [1, 2])
@torch.no_grad()
def test_conditional_half_is_rescaled_as_the_stored_maps_say(scheduler, preset, size, stage):
    unet, call, settings = unet_of(stage), call_of(stage, *size), PRESETS[preset]
    grids = {level: Grid(*(side // 2**level for side in size)) for level in (1, 2)}
    raw = unet(**call).sample
    uncond, cond = raw[:, :3].chunk(2)
    expected = joint_segmentation(unet, CHOSEN, settings, [grids[level] for level in LEVELS], 7, **call)
    ratio = ratio_map(cond - uncond, expected, settings, 5.0)
    with scfg(unet, settings, guidance_scale=5, scheduler=scheduler) as run:
        got = unet(**call).sample
    assert list(run.layers) == CHOSEN
    assert not run.notes
    assert torch.equal(run.evaluations[0].labels.long(), expected.labels)
    assert len(expected.labels.unique()) > 1
    assert torch.equal(got[:2], raw[:2])
    assert torch.equal(got[:, 3:], raw[:, 3:]), "the learned variance is not ours"
    torch.testing.assert_close(got[2:, :3], rescale(cond, uncond, ratio), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("processor", [AttnAddedKVProcessor(), SlicedAttnAddedKVProcessor(1)])
@torch.no_grad()
def test_labels_do_not_depend_on_the_processor(scheduler, processor):
    unet, call = unet_of(1), call_of(1)
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        unet(**call)
    unet.set_attn_processor(processor)
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as other:
        unet(**call)
    assert torch.equal(other.evaluations[0].labels, run.evaluations[0].labels)


@torch.no_grad()
def test_start_tokens_of_ones_own_give_a_foreground(scheduler):
    unet, call = unet_of(1), call_of(1)
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        unet(**call)
    assert run.evaluations[0].foreground.all(), "T5 has no START: the benchmark is the whole picture"
    with scfg(unet, guidance_scale=5, scheduler=scheduler, start_tokens=(0,)) as run:
        unet(**call)
    assert not run.evaluations[0].foreground.all()


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize("kind", ["IF I", "IF II"])
@pytest.mark.parametrize("scheduler", [DDPMScheduler, DPMSolverMultistepScheduler])
def test_variance_is_left_alone_with_every_scheduler(kind, scheduler):
    """A DPM-Solver of its own says nothing of the variance; the pipeline splits it off by the channels."""
    pipe, raw, given = make(kind), [], []
    names = {"beta_schedule": "squaredcos_cap_v2"}
    pipe.scheduler = scheduler(**names, variance_type="fixed_small" if scheduler is DDPMScheduler else None)
    before = pipe.unet.register_forward_hook(lambda *call: raw.append(call[-1][0]))
    with scfg(pipe, guidance_scale=5):
        after = pipe.unet.register_forward_hook(lambda *call: given.append(call[-1][0]))
        sample(pipe, kind)
    for hook in (before, after):
        hook.remove()
    assert len(raw) == len(given) == 3
    for one, other in zip(raw, given, strict=True):
        changed = (one != other).flatten(2).any(dim=2)
        assert changed.tolist() == [[False] * 6, [True] * 3 + [False] * 3]


@pytest.mark.parametrize("kind", ["IF I", "IF II"])
def test_two_pictures_without_guidance_are_no_cfg(kind):
    pipe = make(kind)
    call = {"guidance_scale": 1.0, "prompt_embeds": random(2, 7, WIDTH)}
    call["negative_prompt_embeds"] = random(2, 7, WIDTH)
    if kind == "IF II":
        call["image"] = random(2, 3, 8, 8, seed=4)
    plain = sample(pipe, kind, **call)
    with scfg(pipe, guidance_scale=7) as run:
        assert torch.equal(sample(pipe, kind, **call), plain)
        assert run.notes == [Note.NOT_A_PAIR.text]
        assert not run.evaluations
        sample(pipe, kind)
        assert len(run.evaluations) == 3
        assert torch.equal(sample(pipe, kind, **call), plain)
    assert len(run.evaluations) == 3, "what was recorded before stays"


def test_the_scale_must_be_told():
    with pytest.raises(ScfgError, match="guidance_scale"):
        scfg(make("IF I"))


@torch.no_grad()
def test_layers_that_see_the_text_alone_are_left_out_or_not_propagated(scheduler):
    call = call_of(1)
    mixed = unet_of(1, only_cross_attention=(False, False, True), mid_block_only_cross_attention=True)
    with scfg(mixed, guidance_scale=5, scheduler=scheduler) as run:
        mixed(**call)
    assert all(mixed.get_submodule(name).to_k is not None for name in run.layers)
    blind = unet_of(1, only_cross_attention=True)
    raw = blind(**call).sample
    with scfg(blind, guidance_scale=5, scheduler=scheduler) as run:
        assert not torch.equal(blind(**call).sample, raw)
    assert list(run.layers) == CHOSEN
    assert not run.notes
    with scfg(blind, Settings(power_weights=(1,)), guidance_scale=5, scheduler=scheduler) as same:
        blind(**call)
    assert torch.equal(same.evaluations[0].labels, run.evaluations[0].labels)
