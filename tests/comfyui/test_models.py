"""Models: variants of the U-Nets, ControlNet and LoRA on them, and models that are none of ours."""

from typing import Any

import pytest
import torch
from torch import nn

from scfg_core import Note
from scfg_core.hosts.comfyui.models import architecture_of

from . import host
from .expected import Prompt, check, host_weight, scfg
from .probe import Probe

CAT, BLURRY = host.tokens(1), host.tokens(2)
PROMPTS = host.conditioning(CAT), host.conditioning(BLURRY)
PICTURE = host.latent(24, 40)


def guided_run(model, positive=PROMPTS[0], negative=PROMPTS[1]):
    with Probe(model) as probe:
        guided = scfg(probe.patcher)
        output = host.ksample(guided.model, positive, negative, PICTURE)
    return probe, guided, output


def layers_of(diffusion_model):
    architecture = architecture_of(diffusion_model)
    return [] if architecture is None else list(architecture.layers)


def test_levels_are_read_off_the_module_tree(sd15, sdxl):
    levels = {layer.name: layer.level for layer in layers_of(host.unet(sd15))}
    assert levels == {
        "input.3.0": 1,
        "input.5.0": 2,
        "middle.0.0": 3,
        "output.2.0": 2,
        "output.3.0": 2,
        "output.4.0": 1,
        "output.5.0": 1,
    }
    levels = [layer.level for layer in layers_of(host.unet(sdxl))]
    assert levels == [1] * 2 + [2] * 12 + [1] * 3


def test_the_real_layouts_have_their_levels():
    from comfy.supported_models import SD15, SD20, SDXL

    def levels(config: Any, **unet: Any) -> dict[int, int]:
        with torch.device("meta"):
            layers = layers_of(host.bare(config, unet).diffusion_model)
        return {level: [layer.level for layer in layers].count(level) for level in {each.level for each in layers}}

    sd = {"model_channels": 320, "channel_mult": [1, 2, 4, 4], "num_res_blocks": [2] * 4}
    sd |= {"transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_output": [1] * 9 + [0] * 3}
    sd |= {"transformer_depth_middle": 1, "adm_in_channels": None}
    assert levels(SD15, **sd, context_dim=768, use_linear_in_transformer=False) == {0: 5, 1: 5, 2: 5, 3: 1}
    assert levels(SD20, **sd, context_dim=1024, use_linear_in_transformer=True) == {0: 5, 1: 5, 2: 5, 3: 1}
    xl = {
        "model_channels": 320,
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2] * 3,
        "transformer_depth_middle": 10,
    }
    xl |= {"transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]}
    xl |= {
        "context_dim": 2048,
        "adm_in_channels": 2816,
        "num_classes": "sequential",
        "use_linear_in_transformer": True,
    }
    assert levels(SDXL, **xl) == {1: 10, 2: 60}


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_sd_2_layout(prediction):
    import comfy.model_base
    import comfy.supported_models

    class SD20(comfy.supported_models.SD20):
        unet_extra_config = comfy.supported_models.SD20.unet_extra_config | {"num_head_channels": 8}

        def model_type(self, *_: Any) -> Any:
            kinds = comfy.model_base.ModelType
            return kinds.V_PREDICTION if prediction == "v" else kinds.EPS

    probe, guided, _ = guided_run(host.sd15(SD20, use_linear_in_transformer=True))
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)])


def test_inpainting_model_with_its_extra_channels():
    model = host.sd15(in_channels=9)
    mask = torch.zeros(1, 1, 24, 40)
    mask[..., :20] = 1
    keys = {"concat_latent_image": host.latent(24, 40, seed=5)["samples"], "concat_mask": mask}
    probe, guided, _ = guided_run(model, host.conditioning(CAT, **keys), host.conditioning(BLURRY, **keys))
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)])
    assert probe.evaluations[0].calls[0].x.shape[1] == 9


def control_net() -> Any:
    """A small random ControlNet in the layout of `host.sd15`."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.ops

    net = comfy.cldm.cldm.ControlNet(
        image_size=32,
        in_channels=4,
        hint_channels=3,
        model_channels=32,
        num_res_blocks=[1, 1, 1, 1],
        channel_mult=[1, 1, 2, 2],
        transformer_depth=[0, 1, 1, 0],
        transformer_depth_output=[0, 0, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        num_heads=8,
        use_spatial_transformer=True,
        context_dim=host.CONTEXT,
        legacy=False,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    host.fill(net)
    return comfy.controlnet.ControlNet(
        net.requires_grad_(False).eval(), load_device=torch.device("cpu"), manual_cast_dtype=None
    )


def test_control_net():
    model = host.sd15()
    hint = torch.rand(1, 3, 192, 320, generator=torch.Generator().manual_seed(7))
    control = control_net().set_cond_hint(hint, 0.2)
    positive, negative = (
        host.conditioning(text, control=control, control_apply_to_uncond=False) for text in (CAT, BLURRY)
    )
    plain, steered = (host.ksample(model, *pair, PICTURE) for pair in (PROMPTS, (positive, negative)))
    assert not torch.allclose(plain, steered, rtol=0.01)
    probe, guided, _ = guided_run(model, positive, negative)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)])


def lora() -> dict[str, Any]:
    """A LoRA of rank 1 on a query projection of the middle block."""
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    up, down = (torch.randn(shape, generator=torch.Generator().manual_seed(8)) for shape in ((64, 1), (1, 64)))
    from comfy.weight_adapter import LoRAAdapter

    return {key: LoRAAdapter({key}, (up, down, 1.0, None, None, None))}


def test_lora_on_the_model():
    model = host.sd15()
    plain = host.ksample(model, *PROMPTS, PICTURE)
    assert model.add_patches(lora(), 1.0)
    probe, guided, _ = guided_run(model)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)])
    assert not torch.equal(host.ksample(model, *PROMPTS, PICTURE), plain)


def test_lora_hooks_on_one_of_two_prompts():
    import comfy.hooks

    model, other = host.sd15(), host.tokens(3)
    group = comfy.hooks.HookGroup()
    hook = comfy.hooks.WeightHook(strength_model=1.0)
    hook.weights, hook.need_weight_init = lora(), False
    group.add(hook)
    hooked = comfy.hooks.set_hooks_for_conditioning(host.conditioning(other), group)
    probe, guided, _ = guided_run(model, PROMPTS[0] + hooked)
    assert [len(each.calls) for each in probe.evaluations] == [2, 2]
    whole = host_weight((24, 40))
    check(probe, guided, [Prompt(CAT, None, whole), Prompt(other, None, whole)], [Prompt(BLURRY)])
    host.ksample(model, PROMPTS[0] + hooked, PROMPTS[1], PICTURE)


class Transformer(nn.Module):
    """A model without U-Net or cross-attention, called as the host calls every model."""

    def __init__(self, dtype: torch.dtype | None = None, **_: Any) -> None:
        super().__init__()
        self.dtype = dtype
        self.mix = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, context: torch.Tensor | None = None, **_: Any):
        assert context is not None
        return self.mix(x) + context.mean(dim=(1, 2))[:, None, None, None]


def test_another_kind_of_model_is_left_as_it_is():
    model = host.wrapped(Transformer)
    plain = host.ksample(model, *PROMPTS, PICTURE)
    guided = scfg(model)
    assert torch.equal(host.ksample(guided.model, *PROMPTS, PICTURE), plain)
    assert guided.lines == [f"S-CFG inactive: {Note.UNKNOWN_MODEL.text}"]


def test_a_latent_that_is_no_picture_is_left_as_it_is(sd15, monkeypatch):
    import comfy.samplers

    guided = scfg(sd15)
    monkeypatch.setattr(comfy.samplers, "sampling_function", lambda _model, x, *_, **__: x * 0.5)
    video = {"samples": torch.zeros(1, 4, 3, 24, 40)}
    host.ksample(guided.model, *PROMPTS, video)
    assert guided.line == f"S-CFG inactive: {Note.NOT_AN_IMAGE.text}"
