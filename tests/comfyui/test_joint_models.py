"""The transformers of the picture book in ComfyUI: its own classes give their velocities, and S-CFG its labels."""

import pytest
import torch

from . import host
from .expected import scfg
from .transformers.models import COSMOS, model

PROMPTS = ["a red boat on water", "a blue moon and a cat", ""]


def random_model(architecture, depth=2):
    from demo.joint.model import build_transformer, config_of

    torch.manual_seed(0)
    made = build_transformer(config_of(architecture, depth))
    with torch.no_grad():
        for parameter in made.transformer.parameters():
            parameter.copy_((parameter + 0.05 * torch.randn_like(parameter)).half())
    made.transformer.eval()
    return made


def inputs(made):
    x = torch.randn(len(PROMPTS), 16, 32, 32, generator=torch.Generator().manual_seed(1))
    return x, torch.tensor([0.05, 0.5, 0.95]), made.context(made.tokenizer(PROMPTS))


@pytest.fixture(scope="module")
def mmdit():
    return random_model("mmdit", depth=4)


@pytest.fixture(scope="module")
def loaded(mmdit, tmp_path_factory):
    """What the host's loader of diffusion models makes of the file of a model, by its state dict alone."""
    import comfy.sd

    from demo.joint.model import save_transformer

    path = tmp_path_factory.mktemp("mmdit") / "model.safetensors"
    save_transformer(mmdit, path)
    return comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float32})


def test_the_host_detects_stable_diffusion_3_and_its_sizes(loaded):
    import comfy.model_base

    assert type(loaded.model) is comfy.model_base.SD3
    config = loaded.model.model_config.unet_config
    assert (config["depth"], config["patch_size"], config["qk_norm"]) == (4, 2, "rms")
    assert config["pos_embed_max_size"] == 16


def test_the_hosts_joint_transformer_gives_the_same_velocity(mmdit, loaded):
    x, sigma, context = inputs(mmdit)
    network = host.unet(loaded)
    with torch.no_grad():
        ours = mmdit.velocity(x, sigma, context)
        theirs = network(x, 1000 * sigma, context=context, y=torch.zeros(len(x), 64))
    assert ours.std() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_the_hosts_transformer_with_separate_attention_gives_the_same_velocity():
    from demo.joint.cross import LORA

    made = random_model("cross")
    sizes = {"model_channels": 128, "num_blocks": 2, "num_heads": 2, "mlp_ratio": 4.0, "adaln_lora_dim": LORA}
    network = model("CosmosT2IPredict2", COSMOS | sizes).diffusion_model
    network.load_state_dict(made.transformer.state_dict())
    x, sigma, context = inputs(made)
    with torch.no_grad():
        ours = made.velocity(x, sigma, context)
        theirs = network(x.unsqueeze(2), sigma, context).squeeze(2)
    assert ours.std() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("sigma", [1.0, 0.6])
def test_the_evaluation_sees_what_the_product_sees_in_the_host(mmdit, loaded, sigma):
    import comfy.samplers

    from evaluation.transformer.watching import evaluate, segmentation
    from scfg_core import Settings
    from scfg_core.collect.layers import choose_by_depth

    settings, scale = Settings.preset("default"), 3.0
    noise = torch.randn(2, 16, 32, 32, generator=torch.Generator().manual_seed(2))
    guided = scfg(loaded, settings)
    positive, negative = (
        [[mmdit.context(mmdit.tokenizer([text])), {"pooled_output": torch.zeros(1, 64)}]]
        for text in (PROMPTS[0], "")
    )
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([sigma, 0.0])
    comfy.sample.sample_custom(
        guided.model, noise, scale, sampler, sigmas, positive, negative, torch.zeros_like(noise), disable_pbar=True
    )
    (theirs,) = guided.run.evaluations
    seen = evaluate(mmdit, sigma * noise, sigma, mmdit.tokenizer([PROMPTS[0]] * 2), scale)
    labels, foreground = segmentation(seen, [int(name) for name in choose_by_depth("0123", "auto")], settings)
    assert torch.equal(labels, theirs.labels) and torch.equal(foreground, theirs.foreground)
    assert len(labels.unique()) > 1
