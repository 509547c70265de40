"""Which forwards are CFG, which rows and columns are whose, and what else a pipeline does with its predictions."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler

from scfg_core import Note, Settings, scfg

from ...core import oracle
from .expected import SIZE, check, guided_run
from .tiny import KINDS, SCALE, WIDTH, cfg, cfg_from_cond, make, random, sample


def two_prompts(name: str, lengths: tuple[int, int]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Arguments for two prompts of these lengths, as the pipeline's encoder pads them; and for each alone."""
    longest, kind = max(lengths), KINDS[name]
    together = kind.call(2, (longest, longest))
    alone = []
    for row, length in enumerate(lengths):
        own = {key: value[row : row + 1] for key, value in together.items()}
        for key, value in own.items():
            if key.startswith("negative"):
                length = lengths[1 - row]
            if name == "Z-Image":
                own[key] = together[key][row : row + 1] = [value[0][:length]]
            elif "mask" in key:
                kept = length + (name == "Chroma" and length < longest)  # Chroma keeps one column of padding
                value[:, kept:] = 0
        alone.append(own)
    return together, alone


@pytest.mark.parametrize("name", ["Qwen-Image", "Lumina 2", "Z-Image", "Chroma"])
@pytest.mark.parametrize("lengths", [(16, 11), (9, 16)])
def test_prompts_of_several_lengths_are_each_as_alone(name, lengths):
    together, alone = two_prompts(name, lengths)
    kind = KINDS[name]
    call = kind.arguments(2) | together
    call["latents"] = _latents(name, 2)
    pipe = make(name)
    with scfg(pipe, **kind.given) as run:
        both = pipe(**call).images
    assert not run.notes and len(run.evaluations) == 3
    assert len(run.prompts[0].owners) == max(lengths) - kind.suffix
    for row, own in enumerate(alone):
        lone = make(name)
        with scfg(lone, **kind.given) as other:
            one = lone(**kind.arguments(1) | own | {"latents": call["latents"][row, None]}).images
        torch.testing.assert_close(both[row, None], one, rtol=1e-3, atol=1e-4)
        for each, expected in zip(run.evaluations, other.evaluations, strict=True):
            assert torch.equal(each.labels[row], expected.labels[0])
            torch.testing.assert_close(each.ratio[row], expected.ratio[0], rtol=1e-4, atol=1e-4)


def _latents(name: str, images: int) -> torch.Tensor:
    shape = (35, 16) if KINDS[name].packed else (4, *SIZE)
    return random(images, *shape, seed=5)


def test_masked_padding_of_qwen_is_dropped_and_owns_nothing():
    kind, call = KINDS["Qwen-Image"], KINDS["Qwen-Image"].arguments(1)
    call["prompt_embeds_mask"][:, [3, 11]] = 0
    probe, run, _ = guided_run(make("Qwen-Image"), kind, **{"prompt_embeds_mask": call["prompt_embeds_mask"]})
    check(probe, run, owners=[0, 1, 2, 4, 5])
    assert [run.prompts[0].roles[place] for place in (3, 11, 10)] == ["dead", "dead", "template"]


def test_padding_of_chroma_keeps_its_share_and_owns_nothing():
    kind = replace(KINDS["Chroma"], lengths=(20, 20))
    mask = (torch.arange(20) < 8).float()[None]
    probe, run, _ = guided_run(make("Chroma"), kind, prompt_attention_mask=mask)
    seen = probe.steps[0].forwards[0].attention[run.layers[0]][0]
    assert seen.mask is not None and seen.mask[0, 0, -1, :9].tolist() == [1] * 8 + [0]
    check(probe, run, owners=range(7))
    assert run.prompts[0].roles == ("word",) * 7 + ("null",) * 13


def test_a_missing_t5_of_sd3_owns_nothing():
    kind, pipe = KINDS["SD 3"], make("SD 3")
    embeds = kind.arguments(1)["prompt_embeds"]
    embeds[:, 77:] = 0
    probe, run, _ = guided_run(pipe, kind, prompt_embeds=embeds)
    check(probe, run, owners=range(77))


@pytest.mark.parametrize("name", ["Flux", "Qwen-Image", "Chroma", "Lumina 2"])
def test_a_forward_that_no_other_one_follows_is_no_guidance(name):
    pipe = make(name)
    scale = {"true_cfg_scale" if KINDS[name].hides else "guidance_scale": 1.0}
    plain = sample(pipe, name, **scale)
    with scfg(pipe, guidance_scale=SCALE) as run:
        assert torch.equal(sample(pipe, name, **scale), plain)
        assert not run.evaluations
        assert run.notes == [(Note.NO_NEGATIVE if KINDS[name].hides else Note.NO_GUIDANCE).text]
        guided = sample(pipe, name)
        assert len(run.evaluations) == 3
    assert not torch.equal(guided, sample(pipe, name))


@pytest.mark.parametrize(("name", "off"), [("SD 3", 1.0), ("Z-Image", 0.0)])
def test_a_sampling_without_guidance_after_a_guided_one_is_plain(name, off):
    pipe = make(name)
    plain = sample(pipe, name, guidance_scale=off)
    with scfg(pipe) as run:
        sample(pipe, name)
        assert torch.equal(sample(pipe, name, guidance_scale=off), plain)
    assert run.notes == [Note.NO_GUIDANCE.text] and len(run.evaluations) == 3


def test_guidance_that_ends_early_is_followed():
    pipe, kind = make("Lumina 2"), KINDS["Lumina 2"]
    _, run, latents = guided_run(pipe, kind, cfg_trunc_ratio=0.4)
    assert [each.index for each in run.evaluations] == [0]
    assert run.notes == [Note.NO_NEGATIVE.text]
    assert not torch.equal(latents, sample(make("Lumina 2"), "Lumina 2", cfg_trunc_ratio=0.4))
    _, run, latents = guided_run(make("Z-Image"), KINDS["Z-Image"], cfg_truncation=0.1)
    assert len(run.evaluations) == 1 and run.notes == [Note.NO_GUIDANCE.text]
    assert not torch.equal(latents, sample(make("Z-Image"), "Z-Image", cfg_truncation=0.1))


def test_norms_that_a_pipeline_restores_are_those_of_the_moved_prediction():
    probe, run, _ = guided_run(make("Lumina 2"), KINDS["Lumina 2"], cfg_normalization=False)
    check(probe, run, combine=cfg)

    def limited(cond: np.ndarray, uncond: np.ndarray, scale: float) -> np.ndarray:
        guided = cfg_from_cond(cond, uncond, scale)
        return guided * min(1.0, np.linalg.norm(cond) * 0.5 / np.linalg.norm(guided))

    probe, run, _ = guided_run(make("Z-Image"), KINDS["Z-Image"], cfg_normalization=0.5)
    check(probe, run, combine=limited)


def test_skip_layer_guidance_of_sd3_is_what_it_would_be_without():
    """The pipeline adds 2.8·(c − s): with ε' in place of c, s is moved as far."""
    skips = {"skip_guidance_layers": [6], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    probe, run, _ = guided_run(make("SD 3"), KINDS["SD 3"], **skips)
    assert not run.notes and len(run.evaluations) == 3
    for index, (step, recorded) in enumerate(zip(probe.steps, run.evaluations, strict=True)):
        cond, uncond = (probe.predicted(index, branch, 0, (5, 7)) for branch in (0, 1))
        labels, foreground = recorded.labels[0].numpy().astype(int), recorded.foreground[0].numpy()
        ratio = oracle.ratio_map(cond - uncond, labels, foreground, Settings(), SCALE)
        guided = uncond + SCALE * ratio * (cond - uncond)
        if len(step.forwards) == 2:
            guided += 2.8 * (cond - step.forwards[1].raw[0].double().numpy())
        assert np.ptp(ratio) > 0.01
        assert np.abs(step.guided[0].double().numpy() - guided).max() < 1e-5 * np.abs(guided).max()
    assert [len(step.forwards) for step in probe.steps] == [1, 2, 2]
    plain = sample(make("SD 3"), "SD 3", **skips)
    pipe = make("SD 3")
    with scfg(pipe, Settings(strength=0)):
        assert torch.equal(sample(pipe, "SD 3", **skips), plain)


@pytest.mark.parametrize("name", ["SD 3", "Chroma"])
def test_a_solver_of_second_order_has_two_evaluations_a_step(name):
    pipe = make(name)
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    call = KINDS[name].arguments()
    if name == "Chroma":
        with pytest.raises(ValueError, match="sigmas"):
            pipe(**call)
        return
    plain = pipe(**call).images
    call["generator"].manual_seed(3)
    with scfg(pipe, **KINDS[name].given) as run:
        assert not torch.equal(pipe(**call).images, plain)
    assert [run.step_of(each) for each in run.evaluations] == [0, 1, 1, 2, 2]
    assert not run.notes


def test_a_network_alone_and_references_behind_the_image():
    """As Qwen-Image-Edit calls it: latents of a reference image follow those of the image."""
    pipe = make("Qwen-Image")
    network, x = pipe.transformer, random(1, 35 + 12, 16)
    shared = {"hidden_states": x, "timestep": torch.tensor([0.7]), "img_shapes": [[(1, 5, 7), (1, 3, 4)]]}
    prompts = [random(1, length, WIDTH, seed=seed) for seed, length in ((1, 12), (2, 9))]

    @torch.no_grad()
    def both() -> list[torch.Tensor]:
        return [network(**shared, encoder_hidden_states=text, return_dict=False)[0] for text in prompts]

    cond, uncond = both()
    with scfg(network, guidance_scale=SCALE, scheduler=pipe.scheduler) as run:
        moved, same = both()
    assert torch.equal(same, uncond) and torch.equal(moved[:, 35:], cond[:, 35:])
    assert not torch.equal(moved[:, :35], cond[:, :35])
    assert run.evaluations[0].labels.shape == (1, 5, 7) and not run.notes
