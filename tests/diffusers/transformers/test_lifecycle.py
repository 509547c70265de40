"""Errors, interrupts, what is not supported, and what the device is asked for."""

from collections import Counter

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    PixArtTransformer2DModel,
    QwenImageTransformer2DModel,
    StableDiffusion3PAGPipeline,
)
from torch import nn

from scfg_core import Note, ScfgError, Settings, scfg
from scfg_core.families import CHROMA, FLUX_1, LUMINA_2, QWEN_IMAGE, Z_IMAGE, sd3
from scfg_core.hosts.diffusers.models import model_of
from scfg_core.run.session import Collection

from ...core.waits import Waits
from ..states import state
from .tiny import KINDS, make, sample

NAMES = list(KINDS)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", NAMES)
def test_an_error_in_the_network_leaves_nothing_behind(name, error):
    """Raised inside a watched attention, where the function mode is on."""
    pipe = make(name)
    plain = sample(pipe, name)
    before = state(pipe.transformer)
    attachment = scfg(pipe, **KINDS[name].given)
    module = pipe.transformer.get_submodule(f"{attachment.run.layers[0]}.{KINDS[name].attention}.to_out")

    def fail(*_):
        raise error("stop")

    handle = module[0].register_forward_pre_hook(fail)
    with pytest.raises(error, match="stop"), attachment:
        sample(pipe, name)
    handle.remove()
    assert torch._C._len_torch_function_stack() == 0
    assert state(pipe.transformer) == before
    assert torch.equal(sample(pipe, name), plain)
    with scfg(pipe, **KINDS[name].given) as run:
        sample(pipe, name)
    assert len(run.evaluations) == 3 and not run.notes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["keys.Keys.call", "attachment.rescale", "watching._seen", "keys.Keys.of"])
def test_an_error_of_our_own_is_plain_cfg_and_said_once(name, where, monkeypatch):
    pipe = make(name)
    plain = sample(pipe, name)
    with scfg(pipe, **KINDS[name].given) as run:
        monkeypatch.setattr(f"scfg_core.hosts.diffusers.{where}", lambda *_: 1 / 0)
        assert torch.equal(sample(pipe, name), plain)
    assert len(run.notes) == 1 and "ZeroDivisionError" in run.notes[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_second_sampling_starts_afresh(name):
    pipe = make(name)
    with scfg(pipe, **KINDS[name].given, collection=Collection(every=2)) as run:
        first = sample(pipe, name)
        sample(pipe, name, generator=torch.Generator().manual_seed(9))
        assert torch.equal(sample(pipe, name), first)
    assert [each.index for each in run.evaluations] == [0, 1, 2]
    assert [each.fresh for each in run.evaluations] == [True, False, True]


@pytest.mark.parametrize("name", NAMES)
def test_attention_that_is_not_pytorchs_is_noted(name):
    """A processor of one's own, which computes its softmax itself."""
    pipe = make(name)

    class Elsewhere:
        def __init__(self, inner):
            self.inner = inner

        def __call__(self, *args, **kwargs):
            attention = torch.nn.functional.scaled_dot_product_attention
            torch.nn.functional.scaled_dot_product_attention = plainly
            try:
                return self.inner(*args, **kwargs)
            finally:
                torch.nn.functional.scaled_dot_product_attention = attention

    for index, layer in enumerate(KINDS[name].names()):
        module = pipe.transformer.get_submodule(f"{layer}.{KINDS[name].attention}")
        if index != 2:
            module.processor = Elsewhere(module.processor)
    plain = sample(pipe, name)
    with scfg(pipe, **KINDS[name].given) as run:
        guided = sample(pipe, name)
    assert not torch.equal(guided, plain) and len(run.evaluations) == 3, "one layer is left"
    module = pipe.transformer.get_submodule(f"{KINDS[name].names()[2]}.{KINDS[name].attention}")
    module.processor = Elsewhere(module.processor)
    plain = sample(pipe, name)
    with scfg(pipe, **KINDS[name].given) as run:
        assert torch.equal(sample(pipe, name), plain)
    assert run.notes == [Note.NO_MAPS.text] and not run.evaluations


def plainly(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(dim=-1) @ value


def test_what_is_missing_or_impossible_is_said():
    for name in ("Flux", "Qwen-Image"):
        with pytest.raises(ScfgError, match="true_cfg_scale"):
            scfg(make(name))
    pipe = make("Chroma")
    with pytest.raises(ScfgError, match="guidance_scale"):
        scfg(pipe.transformer, scheduler=pipe.scheduler)
    with pytest.raises(ScfgError, match="scheduler=…"):
        scfg(pipe.transformer, guidance_scale=4)
    for scheduler in (DDIMScheduler(), DPMSolverMultistepScheduler()):
        with pytest.raises(ScfgError, match="flow matching"):
            scfg(pipe, scheduler=scheduler)
    with scfg(pipe), pytest.raises(ScfgError, match="detach"):
        scfg(pipe)
    with scfg(pipe):
        pass


def test_a_network_that_is_not_known_is_refused_with_those_that_are():
    network = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=8, caption_channels=8
    )
    with pytest.raises(ScfgError, match="SD3Transformer2DModel.*PixArtTransformer2DModel"):
        scfg(network, guidance_scale=4, scheduler=DDIMScheduler())
    layered = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, axes_dims_rope=(4, 4, 8), use_layer3d_rope=True,
    )  # fmt: skip
    with pytest.raises(ScfgError, match="layers"):
        scfg(layered, guidance_scale=4, scheduler=make("Flux").scheduler)
    with pytest.raises(ScfgError, match="text-conditioned"):
        scfg(nn.Linear(2, 2), guidance_scale=4, scheduler=DDIMScheduler())


def test_perturbed_attention_guidance_is_left_alone():
    parts = dict(make("SD 3").components)
    for absent in ("image_encoder", "feature_extractor"):
        parts.pop(absent)
    pipe = StableDiffusion3PAGPipeline(**parts, pag_applied_layers=["transformer_blocks.5"])
    pipe.set_progress_bar_config(disable=True)
    call = KINDS["SD 3"].arguments() | {"pag_scale": 2.0}
    plain = pipe(**call).images
    call["generator"].manual_seed(3)
    with scfg(pipe) as run:
        assert torch.equal(pipe(**call).images, plain)
    assert run.notes == [Note.NO_GUIDANCE.text]


@pytest.mark.parametrize("how", ["module", "blocks"])
def test_a_compiled_network_runs_as_it_is_written_until_it_is_detached(how):
    pipe, kind = make("Qwen-Image"), KINDS["Qwen-Image"]
    with scfg(pipe, **kind.given):
        expected = sample(pipe, "Qwen-Image")
    torch._dynamo.reset()
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    if how == "module":
        pipe.transformer = torch.compile(pipe.transformer, backend=backend)
    else:
        pipe.transformer.compile_repeated_blocks(backend=backend)
    with scfg(pipe, **kind.given) as run:
        torch.testing.assert_close(sample(pipe, "Qwen-Image"), expected, rtol=1e-4, atol=1e-4)
    assert run.notes == [Note.UNCOMPILED.text] and not compiled and len(run.evaluations) == 3
    sample(pipe, "Qwen-Image", num_inference_steps=1)
    assert compiled, "the compiler is back"


def waits(pipe, name, steps):
    with Waits() as seen:
        sample(pipe, name, num_inference_steps=steps)
    return Counter(seen.found)


@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_device(name):
    pipe, extra = make(name), []
    plain = {steps: waits(pipe, name, steps) for steps in (2, 5)}
    for steps in (2, 5):
        with scfg(pipe, **KINDS[name].given):
            extra.append(waits(pipe, name, steps) - plain[steps])
    assert extra[0].total() > 0, "texts and levels are read once"
    assert extra[1] == extra[0]


def test_only_what_separates_the_foreground_is_observed(monkeypatch):
    """Without START the unconditional forward runs without a function mode."""
    from scfg_core.hosts.diffusers import watching

    entered, enter = Counter(), watching._Seeing.enter

    def counted(mode, see):
        entered["mode"] += 1
        enter(mode, see)

    monkeypatch.setattr(watching._Seeing, "enter", counted)
    for name, forwards in (("Chroma", 1), ("Lumina 2", 2), ("SD 3", 1)):
        entered.clear()
        pipe = make(name)
        with scfg(pipe, Settings(), **KINDS[name].given) as run:
            sample(pipe, name)
        assert entered["mode"] == 3 * forwards * len(run.layers)


def test_both_hosts_have_what_they_know_of_a_family_from_one_place():
    rows = {
        "SD 3": sd3(8), "Flux": FLUX_1, "Chroma": CHROMA, "Qwen-Image": QWEN_IMAGE, "Lumina 2": LUMINA_2,
        "Z-Image": Z_IMAGE,
    }  # fmt: skip
    for name, family in rows.items():
        model = model_of(make(name).transformer)
        assert model.family == family  # type: ignore[attr-defined]
        chosen = list(model.choose_layers("auto"))
        assert chosen == family.choose_layers(KINDS[name].names(), "auto")
