"""The demo model is the same in ComfyUI and in diffusers: its predictions, and its pictures by CFG and by S-CFG."""

import asyncio
import importlib

import pytest
import torch

pytest.importorskip("diffusers")

PROMPT = "a red circle and a blue square on a green background"
STEPS, SCALE = 10, 5.0
TOLERANCE = 2e-3
"""Of pictures in −1…1 after ten steps: two ways to the same sampler in fp32."""


@pytest.fixture(scope="module")
def nodes(pack):
    extension = asyncio.run(pack.comfy_entrypoint())
    return {each.GET_SCHEMA().node_id: each for each in asyncio.run(extension.get_node_list())}


@pytest.fixture(scope="module")
def hosted(nodes):
    return nodes["SCFGDemoModel"].execute().args


@pytest.fixture(scope="module")
def ours():
    from demo.model import load_model

    return load_model()


def schedule(ours):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**ours.scheduler_config)
    scheduler.set_timesteps(STEPS)
    return scheduler


def noise(images=2):
    return torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(4))


def in_diffusers(ours, settings):
    from demo.sample import sample

    first = schedule(ours)
    level = (1 - first.alphas_cumprod[first.timesteps[0]]).sqrt()
    return sample(ours, [PROMPT] * 2, noise() * level, scale=SCALE, settings=settings, steps=STEPS)


def in_comfyui(hosted, model, ours):
    import comfy.sample
    import comfy.samplers

    _, clip, _ = hosted
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (PROMPT, ""))
    sampling = model.get_model_object("model_sampling")
    levels = [float(sampling.sigma(t.float())) for t in schedule(ours).timesteps]
    sigmas = torch.tensor([*levels, 0.0])
    sampler = comfy.samplers.sampler_object("euler")
    return comfy.sample.sample_custom(
        model, noise(), SCALE, sampler, sigmas, positive, negative, torch.zeros(2, 3, 32, 32), disable_pbar=True
    )


def test_the_networks_predict_the_same(hosted, ours):
    model, clip, _ = hosted
    x, t = noise(), torch.tensor([500, 20])
    context = ours.text_encoder(ours.tokenizer([PROMPT, ""]))
    said = [clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0] for text in (PROMPT, "")]
    assert torch.allclose(torch.cat(said), context, atol=1e-6)
    with torch.no_grad():
        expected = ours.unet(x, t, encoder_hidden_states=context).sample
        found = model.model.diffusion_model(x, t.float(), context=context)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("preset", [None, "default", "paper", "authors"])
def test_the_same_noise_gives_the_same_picture(hosted, pack, ours, preset):
    from scfg_core import Settings

    model, run = hosted[0], None
    if preset is not None:
        core = importlib.import_module(f"{pack.__name__}.scfg_core")
        guide = importlib.import_module(f"{pack.__name__}.scfg_core.hosts.comfyui").guide
        model, trace = guide(model, core.Settings.preset(preset))
    found = in_comfyui(hosted, model, ours)
    expected = in_diffusers(ours, None if preset is None else Settings.preset(preset))
    if preset is not None:
        (run,) = trace.runs()
        same = [
            (mine.labels == theirs.labels).float().mean()
            for mine, theirs in zip(run.evaluations, expected.run.evaluations, strict=True)
        ]
        assert min(same) > 0.99
    assert (found - expected.images).abs().max() < TOLERANCE


def test_the_vae_enlarges_eightfold_and_back(hosted):
    vae = hosted[2]
    latent = noise().clamp(-1, 1)
    picture = vae.decode(latent)
    assert picture.shape == (2, 256, 256, 3)
    assert torch.allclose(vae.encode(picture), latent, atol=1e-5)


@pytest.mark.parametrize("text", ["a red dragon", "a " * 19])
def test_a_prompt_that_the_model_cannot_read_is_an_error(hosted, text):
    clip = hosted[1]
    with pytest.raises(ValueError, match="knows|words"):
        clip.tokenize(text)
