"""Masks, reference images, areas, frames, other nodes; and layouts that a family does not have."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from scfg_core import Note, Settings
from scfg_core.hosts.comfyui import guide

from .. import host
from ..expected import Guided, scfg
from ..nodes import stock
from .expected import check, guided_run, sample
from .models import FAMILIES

SMALL = {"klein": (6, 7)}


def prompts(family, *, seeds=(1, 2), **keys: Any) -> list[list]:
    return [family.text(seed, length, **keys) for seed, length in zip(seeds, family.lengths, strict=True)]


def latent_of(name: str, **keys: Any):
    return FAMILIES[name].latent(*SMALL.get(name, (10, 14)), **keys)


@pytest.mark.parametrize("name", ["qwen", "hunyuan"])
def test_masked_text_is_dropped_before_the_softmax(patcher, name):
    family = replace(FAMILIES[name], lengths=(12, 9), suffix=0)
    mask = torch.ones(1, 12, dtype=torch.long)
    mask[:, [0, 5, 11]] = 0
    positive, negative = family.text(1, 12, attention_mask=mask), family.text(2, 9)
    owners = [column for column in range(12) if mask[0, column]][: -FAMILIES[name].suffix]
    probe, guided, _ = guided_run(patcher(name), family, positive, negative, latent_of(name))
    check(probe, guided, (12, 9), dead=({0, 5, 11}, set()), owners=owners)


@pytest.mark.parametrize("name", ["qwen", "klein", "flux1"])
def test_columns_of_a_reference_image_follow_the_images(patcher, name):
    family = FAMILIES[name]
    reference = torch.randn(latent_of(name)["samples"].shape, generator=torch.Generator().manual_seed(3))

    def order(text: int, image: int):
        keys, words, patches = family.order(text, image)
        return keys + image, words, patches

    positive, negative = prompts(family, reference_latents=[reference])
    probe, guided, _ = guided_run(patcher(name), replace(family, order=order), positive, negative, latent_of(name))
    check(probe, guided, family.lengths)


@pytest.mark.parametrize("name", ["qwen", "anima"])
def test_frames_lie_one_below_the_other_and_are_smoothed_apart(patcher, name):
    family, settings = FAMILIES[name], Settings(smooth_ratio=False)
    latent = family.latent(10, 14, frames=3)
    probe, guided, _ = guided_run(patcher(name), family, *prompts(family), latent, settings=settings)
    check(probe, guided, family.lengths, settings=settings)
    plain, smooth = guided.run, guided_run(patcher(name), family, *prompts(family), latent)[1].run
    from scfg_core.grid import smooth_3x3

    first = plain.evaluations[0].ratio
    assert first.shape[1:] == (15, 7)
    assert not torch.equal(smooth.evaluations[0].ratio, first)
    apart = [smooth_3x3(frame[:, None])[:, 0] for frame in first.split(5, dim=1)]
    assert torch.equal(smooth_3x3(first[:, None], frames=3)[:, 0], torch.cat(apart, dim=1))


@pytest.mark.parametrize("name", ["anima", "qwen", "chroma", "sd3"])
def test_areas_and_masks_of_conditionings(patcher, name):
    import node_helpers

    family = FAMILIES[name]
    left, whole = family.text(1, family.lengths[0]), family.text(3, family.lengths[0])
    left = node_helpers.conditioning_set_values(left, {"area": (16, 12, 0, 0), "strength": 1.0})
    mask = torch.zeros(1, 16, 24)
    mask[:, :, 12:] = 1
    masked = node_helpers.conditioning_set_values(family.text(4, family.lengths[0]), {"mask": mask})
    guided = scfg(patcher(name))
    image = sample(guided.model, whole + left + masked, family.text(2, family.lengths[1]), family.latent(16, 24))
    assert torch.isfinite(image).all() and "S-CFG active" in guided.line
    assert "3 prompts" in guided.line and "skipped" not in guided.line
    labels, columns = guided.run.evaluations[0].labels[0], family.columns(family.lengths[0])
    assert len(guided.run.prompts) == 3
    assert not ((labels[:, 6:] >= columns) & (labels[:, 6:] < 2 * columns)).any(), (
        "the left entry is not on the right"
    )
    assert (labels[:, :6] < 2 * columns).all(), "the mask's entry is not on the left"


@pytest.mark.parametrize("name", list(FAMILIES))
def test_beside_rescale_cfg(patcher, name):
    family = FAMILIES[name]
    rescaled = stock("nodes_model_advanced", "RescaleCFG", 0.7)
    texts, latent = prompts(family), latent_of(name)
    images = []
    for before in (True, False):
        guided = scfg(rescaled(patcher(name)) if before else patcher(name))
        images.append(sample(guided.model if before else rescaled(guided.model), *texts, latent))
        assert "S-CFG active" in guided.line
    assert torch.equal(*images)
    assert not torch.equal(images[0], sample(rescaled(patcher(name)), *texts, latent))
    idle = scfg(rescaled(patcher(name)), Settings(strength=0.0))
    assert torch.equal(sample(idle.model, *texts, latent), sample(rescaled(patcher(name)), *texts, latent))


@pytest.mark.parametrize("name", ["sd3", "aura", "flux1", "qwen"])
def test_beside_skip_layer_guidance(patcher, name):
    skip = stock("nodes_slg", "SkipLayerGuidanceDiT", 3.0, 0.0, 1.0, "2, 3", "2, 3", 0.0)
    family = FAMILIES[name]
    texts, latent = prompts(family), latent_of(name)
    with_skip = skip(patcher(name))
    stock_image = sample(with_skip, *texts, latent)
    idle = scfg(with_skip, Settings(strength=0.0))
    assert torch.equal(sample(idle.model, *texts, latent), stock_image)
    guided = scfg(with_skip)
    image = sample(guided.model, *texts, latent)
    assert "S-CFG active" in guided.line and not torch.equal(image, stock_image)
    assert torch.equal(sample(skip(scfg(patcher(name)).model), *texts, latent), image)


@pytest.mark.parametrize("name", ["sd3", "qwen"])
def test_beside_torch_compile(patcher, name):
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    family = FAMILIES[name]
    texts, latent = prompts(family), latent_of(name)
    usual = sample(scfg(patcher(name)).model, *texts, latent, steps=1)
    guided = scfg(patcher(name))
    set_torch_compile_wrapper(guided.model, backend="eager")
    torch._dynamo.reset()
    assert torch.allclose(sample(guided.model, *texts, latent, steps=1), usual, atol=1e-4, rtol=1e-4)
    assert "S-CFG active" in guided.line


def test_anima_outside_inference_mode_reads_the_adapted_prompt(patcher):
    family = FAMILIES["anima"]
    guided = scfg(patcher("anima"))
    with torch.no_grad():
        image = host.ksample(guided.model, *prompts(family), latent_of("anima"), cfg=4.0, steps=2)
    assert torch.isfinite(image).all() and "512 tokens" in guided.line and "skipped" not in guided.line
    assert guided.run.evaluations[0].labels.max() < family.lengths[0] - 3


def test_text_without_start_is_not_watched_in_the_unconditional_rows(patcher, monkeypatch):
    from scfg_core.collect.collector import Collector

    family, seen = FAMILIES["chroma"], []
    observe = Collector.observe
    monkeypatch.setattr(Collector, "observe", lambda self, call: (seen.append(call), observe(self, call))[1])
    family = replace(family, lengths=(12, 12))
    sample(scfg(patcher("chroma")).model, *prompts(family), latent_of("chroma"))
    assert seen and all(len(call.q) == 1 and [part.prompt[0] for part in call.rows] == [0] for call in seen)


UNUSUAL = {
    "z_image": {"reference_latents": [torch.ones(1, 16, 12, 14)]},  # another image before this one
    "flux1": {"attention_mask": torch.ones(1, 12 + 35, 12 + 35), "attention_mask_img_shape": (5, 7)},  # per query
}


@pytest.mark.parametrize("magnitude", [False, True], ids=["plain", "magnitude"])
@pytest.mark.parametrize("name", UNUSUAL)
def test_a_layout_that_a_family_does_not_have_is_left_out_and_the_image_is_made(patcher, name, magnitude):
    family = replace(FAMILIES[name], lengths=(12, 12))
    texts, latent = prompts(family, **UNUSUAL[name]), latent_of(name)
    plain = sample(patcher(name), *texts, latent)
    guided = Guided()
    guided.model, guided.trace = guide(patcher(name), Settings(), listeners=(guided,), by_magnitude=magnitude)
    image = sample(guided.model, *texts, latent)
    assert torch.equal(image, plain) is not magnitude
    assert Note.LAYER_SKIPPED.text in guided.line
    assert guided.line.startswith("S-CFG active: by the magnitude" if magnitude else "S-CFG inactive")


def test_a_patch_that_changes_the_keys_of_some_blocks_leaves_these_out(patcher):
    family = FAMILIES["flux1"]
    model = patcher("flux1").clone()

    def longer(q, k, v, extra_options=None, **kwargs):
        return {
            "q": q,
            "k": torch.cat((k, k[:, :, :3]), dim=2),
            "v": torch.cat((v, v[:, :, :3]), dim=2),
            "pe": None,
        }

    model.model_options["transformer_options"]["patches"] = {"attn1_patch": [longer]}
    plain = sample(model, *prompts(family), latent_of("flux1"))
    guided = scfg(model)
    assert torch.equal(sample(guided.model, *prompts(family), latent_of("flux1")), plain)
    assert Note.LAYER_SKIPPED.text in guided.line


@pytest.mark.parametrize("name", [name for name in FAMILIES if FAMILIES[name].order])
def test_the_image_stands_where_the_family_says(patcher, name):
    """Another cell of the latent changes the query of its patch in the first block, and no text's."""
    from .probe import Probe

    family, network = FAMILIES[name], host.unet(patcher(name))
    seen = []
    for cell in (None, (3, 8)):
        probe = Probe(patcher(name), family)
        latent = latent_of(name) if name != "klein" else family.latent(10, 14)
        latent["samples"] += 0.5
        if cell is not None:
            latent["samples"][..., cell[0], cell[1]] += 5
        with probe():
            sample(probe.patcher, *prompts(family), latent, steps=1, denoise=0.2)
        call = next(call for call in probe.evaluations[0].calls if 0 in call.chunks)
        q, _ = call.attention[probe.names[0]][0]
        seen.append(q[call.chunks.index(0)])
    changed = (seen[0] != seen[1]).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    rows, columns = probe.grid(probe.evaluations[0].args["cond_denoised"])
    _, text, image = family.order(family.columns(family.lengths[0]), rows * columns)
    patch = image.start + (3 // family.patch) * columns + 8 // family.patch
    assert patch in changed and not set(changed) & set(range(text.start, text.stop))
    assert changed == [patch] or name in ("lumina", "z_image"), "only refiners mix patches before the first block"
    assert network is host.unet(patcher(name))
