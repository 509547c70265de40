"""Which calls are CFG, and which pictures and tokens are whose, through diffusers' own pipelines."""

import pytest
import torch
from diffusers import StableDiffusionInstructPix2PixPipeline, StableDiffusionPAGPipeline

from scfg_core import Note, Settings
from scfg_core.hosts.diffusers import scfg

from .loop import context, noise
from .tiny import GAMMA, KINDS, WIDTH, arguments, make, names_its_scale, random

WATCH = Settings(strength=0)


@torch.no_grad()
def test_two_pictures_on_a_bare_unet_are_no_cfg(unet, scheduler):
    scheduler.set_timesteps(3)
    pair, two = noise(1).repeat(2, 1, 1, 1), noise(2)
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        raw = [unet(two, t, context(1)).sample for t in scheduler.timesteps]
        unet(pair, 900, context(1))
    assert run.notes == [Note.NOT_A_PAIR.text]
    assert len(run.evaluations) == 1
    for t, expected in zip(scheduler.timesteps, raw, strict=True):
        assert torch.equal(unet(two, t, context(1)).sample, expected)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("cls", [StableDiffusionInstructPix2PixPipeline, StableDiffusionPAGPipeline])
def test_three_copies_are_no_cfg(cls, images):
    """Two pictures make six rows: an even number, whose halves are not the same pictures."""
    edits = cls is StableDiffusionInstructPix2PixPipeline
    source = make("SD 1.5")
    parts = dict(source.components)
    call = arguments("SD 1.5", images)
    if edits:
        for name in ("height", "width"):
            call.pop(name)
        torch.manual_seed(0)
        parts["unet"] = type(source.unet).from_config(source.unet.config, in_channels=8).eval()
        call["image"] = random(images, 3, 16, 16, seed=4).sigmoid()
    else:
        call |= {"pag_scale": 3.0}
    pipe = cls(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    plain = pipe(**call).images
    call["generator"].manual_seed(3)
    with scfg(pipe) as run:
        assert torch.equal(pipe(**call).images, plain)
    assert not run.evaluations
    assert run.notes == ([Note.NOT_A_PAIR.text] if edits and images == 2 else [Note.NO_GUIDANCE.text])


def test_without_guidance_a_pipeline_of_two_pictures_is_left_alone():
    pipe, call = make("SD 1.5"), arguments("SD 1.5", 2) | {"guidance_scale": 1.0}
    plain = pipe(**call).images
    call["generator"].manual_seed(3)
    with scfg(pipe) as run:
        assert torch.equal(pipe(**call).images, plain)
    assert run.notes == [Note.NO_GUIDANCE.text]


@pytest.mark.parametrize("kind", ["SD 1.5", "XL", "IF I"])
def test_each_of_several_pictures_of_several_prompts_is_as_alone(kind):
    pipe, call = make(kind), arguments(kind, images=2)
    per_prompt = 1 if kind == "IF I" else 2  # IF's noise cannot be given, only drawn
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, variance_type="fixed_small")
    if kind == "IF I":
        call["generator"] = [torch.Generator().manual_seed(seed) for seed in range(2)]
    else:
        call["latents"] = random(4, 4, 8, 8, seed=5)
    with scfg(pipe, guidance_scale=GAMMA) as run:
        together = pipe(**call, num_images_per_prompt=per_prompt).images
    assert run.evaluations[0].labels.shape[0] == 2 * per_prompt
    for index, picture in enumerate(together):
        prompt = index // per_prompt
        own = {name: value[prompt, None] for name, value in call.items() if name.endswith("embeds")}
        if kind == "IF I":
            own["generator"] = torch.Generator().manual_seed(prompt)
        else:
            own["latents"] = call["latents"][index, None]
        with scfg(pipe, guidance_scale=GAMMA):
            alone = pipe(**call | own).images
        torch.testing.assert_close(picture, alone[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_odd_sizes_and_long_prompts(kind):
    """Sides of which the deepest level is odd, and two chunks of 77 tokens, each with its START."""
    height, width = (20, 36) if kind.startswith("IF") else (24, 40)
    pipe, call = make(kind), arguments(kind, height=height, width=width, tokens=154)
    plain = pipe(**call).images
    call["generator"].manual_seed(3)
    with scfg(pipe, guidance_scale=None if names_its_scale(kind) else GAMMA) as run:
        guided = pipe(**call).images
    assert guided.shape == plain.shape == (1, 3, height, width)
    assert not torch.equal(guided, plain)
    assert not run.notes
    grids = {each.grid for each in run.evaluations}
    assert {(grid.h, grid.w) for grid in grids} == ({(10, 18)} if kind.startswith("IF") else {(6, 10)})
    if not kind.startswith("IF"):
        assert all((each.labels != 77).all() for each in run.evaluations), "the second START belongs to the first"


def test_prompts_in_words_go_through_the_pipelines_own_encoder():
    pipe = make("SD 1.5")
    call = {name: value for name, value in arguments("SD 1.5").items() if not name.endswith("embeds")}
    call |= {"prompt": ["a cat", "a big dog"], "negative_prompt": ["bad", ""]}
    plain = pipe(**call).images
    call["generator"].manual_seed(3)
    with scfg(pipe) as run:
        assert not torch.equal(pipe(**call).images, plain)
    assert len(run.evaluations[0].labels) == 2
    assert pipe.text_encoder.config.hidden_size == WIDTH


@pytest.mark.parametrize("kind", ["ControlNet", "MultiControlNet"])
def test_guess_mode_keeps_to_the_unets_own_rows(kind):
    pipe, call = make(kind), arguments(kind) | {"guess_mode": True}
    plain = pipe(**call).images
    for settings, same in ((WATCH, True), (None, False)):
        call["generator"].manual_seed(3)
        with scfg(pipe, settings) as run:
            assert torch.equal(pipe(**call).images, plain) == same
        assert len(run.evaluations) == 3
        assert not run.notes
