"""The demo model is the same in ComfyUI and in diffusers: its predictions, and its images by CFG and by S-CFG."""

import asyncio
import importlib

import pytest
import torch

pytest.importorskip("diffusers")

PROMPT = "a red boat and a white moon on water at night"
STEPS, SCALE = 10, 5.0
TOLERANCE = 2e-3
"""Of latents after ten steps: two ways to the same sampler in fp32."""


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
    return torch.randn(images, 12, 32, 32, generator=torch.Generator().manual_seed(4))


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
        model, noise(), SCALE, sampler, sigmas, positive, negative, torch.zeros(2, 12, 32, 32), disable_pbar=True
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
def test_the_same_noise_gives_the_same_image(hosted, pack, ours, preset):
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
    assert (found - expected.latents).abs().max() < TOLERANCE


def test_the_vae_is_the_wavelet_enlarged_fourfold_and_back(hosted, ours):
    from demo.wavelet import decode, encode

    vae = hosted[2]
    latents = encode(decode(noise()).clamp(-1, 1))
    images = vae.decode(latents)
    assert images.shape == (2, 256, 256, 3)
    assert torch.allclose(images[:, ::4, ::4].movedim(-1, 1) * 2 - 1, decode(latents), atol=1e-5)
    assert torch.equal(images[:, ::4, ::4], images[:, 3::4, 3::4])
    assert torch.allclose(vae.encode(images), latents, atol=1e-5)


def test_an_image_of_any_size_is_cut_to_whole_latents(hosted):
    assert hosted[2].encode(torch.rand(1, 67, 250, 4)).shape == (1, 12, 8, 31)


def test_the_preview_is_the_image_at_half_its_size(hosted):
    from demo.wavelet import decode

    latents = noise()
    factors = torch.tensor(hosted[0].model.latent_format.latent_rgb_factors)
    preview = torch.einsum("b c h w, c r -> b r h w", latents, factors)
    assert torch.allclose(preview, torch.nn.functional.avg_pool2d(decode(latents), 2), atol=1e-5)


def test_unknown_words_are_skipped_and_named(hosted, ours, caplog):
    clip = hosted[1]
    with caplog.at_level("WARNING"):
        (found,) = clip.encode_from_tokens_scheduled(clip.tokenize("a red dragon boat"))
    assert torch.allclose(found[0], ours.text_encoder(ours.tokenizer(["a red boat"])), atol=1e-6)
    assert "dragon" in caplog.text and "cactus" in caplog.text


def test_words_of_the_former_model_keep_their_names_and_draw_something_else(hosted, ours, caplog):
    clip = hosted[1]
    with caplog.at_level("WARNING"):
        (found,) = clip.encode_from_tokens_scheduled(clip.tokenize("a yellow triangle"))
    assert torch.allclose(found[0], ours.text_encoder(ours.tokenizer(["a yellow tent"])), atol=1e-6)
    assert "triangle (drawn as tent)" in caplog.text
    texts, _ = found[1]["scfg_words"]
    assert texts[:4] == ["<start>", "a", "yellow", "triangle"]


def test_known_words_say_nothing(hosted, caplog):
    hosted[1].tokenize(PROMPT)
    assert not caplog.text


def test_a_prompt_that_is_too_long_is_an_error(hosted):
    with pytest.raises(ValueError, match="22 words"):
        hosted[1].tokenize("a " * 23)
