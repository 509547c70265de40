"""The transformers of the picture book: layouts, padding, files, and diffusers' class with the same weights."""

from __future__ import annotations

import pytest
import torch

from demo.joint.as_diffusers import as_diffusers
from demo.joint.model import (
    ARCHITECTURES,
    build_transformer,
    config_of,
    load_transformer,
    save_transformer,
    to_images,
    to_latents,
)
from demo.words import LENGTH

PROMPTS = ["a red boat on water", "a white cat and a blue moon at night", ""]


def random_model(architecture, depth=2, seed=0):
    """Weights without zeros, so that every part of the network shows in its output."""
    torch.manual_seed(seed)
    model = build_transformer(config_of(architecture, depth))
    with torch.no_grad():
        for parameter in model.transformer.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.transformer.eval()
    return model


def inputs(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(PROMPTS), 16, 32, 32, generator=generator)
    return x, torch.tensor([0.05, 0.5, 0.95]), model.context(model.tokenizer(PROMPTS))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_transformer_loads_as_it_was(tmp_path, architecture):
    model = random_model(architecture)
    model.transformer.half().float()
    save_transformer(model, tmp_path / "model.safetensors")
    loaded = load_transformer(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded.velocity(*inputs(loaded)), model.velocity(*inputs(model)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_text_and_the_noise_level_reach_the_output(architecture):
    model = random_model(architecture)
    x, sigma, context = inputs(model)
    with torch.no_grad():
        out = model.velocity(x, sigma, context)
        assert not torch.allclose(out, model.velocity(x, sigma, context.flip(0)), atol=1e-3)
        assert not torch.allclose(out, model.velocity(x, sigma.flip(0), context)[[0, 1, 2]], atol=1e-3)


def test_diffusers_gives_the_same_velocity():
    model = random_model("mmdit")
    x, sigma, context = inputs(model)
    with torch.no_grad():
        ours = model.velocity(x, sigma, context)
        theirs = as_diffusers(model)(
            x, context, pooled_projections=torch.zeros(len(x), 64), timestep=1000 * sigma
        ).sample
    assert ours.std() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_diffusers_has_no_class_for_the_other_layout():
    with pytest.raises(ValueError, match="expected a model of architecture 'mmdit', got 'cross'"):
        as_diffusers(random_model("cross"))


def test_padding_of_zeros_has_keys_and_values_of_zero():
    model = random_model("cross")
    x, sigma, context = inputs(model)
    seen = []
    _, cross = model.transformer.attentions()[0]
    cross.register_forward_pre_hook(lambda module, given: seen.append(given))
    with torch.no_grad():
        model.velocity(x, sigma, context)
    _, k, v = seen[0]
    lengths = [len(model.tokenizer.words(prompt)) + 1 for prompt in PROMPTS]
    assert context.shape[1] > LENGTH
    for row, length in enumerate(lengths):
        assert (k[row, :, length:] == 0).all() and (v[row, :, length:] == 0).all()
        assert (k[row, :, :length].norm(dim=-1) > 0).all()


@pytest.mark.parametrize(("architecture", "keys"), [("mmdit", [(24 + 256,)] * 2), ("cross", [(256, 64)] * 2)])
def test_attentions_are_called_with_the_keys_of_their_layout(architecture, keys):
    model = random_model(architecture)
    seen = {}
    for block in model.transformer.attentions():
        for attention in block:
            attention.register_forward_pre_hook(lambda module, given: seen.update({module: given[1].shape[2]}))
    with torch.no_grad():
        model.velocity(*inputs(model))
    assert [tuple(seen[attention] for attention in block) for block in model.transformer.attentions()] == keys


def test_latents_have_sixteen_channels_and_lose_nothing():
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = to_latents(images)
    assert latents.shape == (2, 16, 32, 32) and (latents[:, 12:] == 0).all()
    assert torch.allclose(to_images(latents), images, atol=1e-6)
