"""Every sampler, schedule and way of starting: each evaluation under guidance is guided by its own maps."""

import pytest
import torch

from scfg_core import Note

from . import host
from .expected import Prompt, check, scfg, watching
from .probe import Probe

CAT, BLURRY = host.tokens(1), host.tokens(2)
PROMPTS = host.conditioning(CAT), host.conditioning(BLURRY)


def guided_run(model, image=None, evaluations=None, **how):
    """A guided run, checked at the given evaluations, by default all of them."""
    with Probe(model) as probe:
        guided = scfg(probe.patcher)
        output = host.ksample(guided.model, *PROMPTS, image or host.latent(24, 40), **how)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)], evaluations=evaluations)
    return output, probe, guided


@pytest.mark.parametrize(
    ("sampler", "evaluations"),
    [
        ("euler", 3),
        ("euler_ancestral", 3),
        ("dpmpp_2m", 3),
        ("ddim", 3),
        ("uni_pc", 3),
        ("lcm", 3),
        ("heun", 5),
        ("dpm_2", 5),
        ("dpmpp_sde", 5),
        ("heunpp2", 6),
    ],
)
def test_every_evaluation_of_a_sampler(sd15, sampler, evaluations):
    _, probe, guided = guided_run(sd15, sampler=sampler, steps=3)
    assert probe.calls == len(probe.evaluations) == evaluations
    assert guided.run.schedule[-1] == 0
    assert len(guided.run.schedule) == 4


def test_dpm_adaptive_chooses_its_own_evaluations(sd15):
    image = host.latent(12, 12, seed=3)
    _, probe, _ = guided_run(sd15, image, sampler="dpm_adaptive", evaluations=(0, 4, -1), steps=3, denoise=0.2)
    assert len(probe.evaluations) > 4


def test_image_to_image(sd15):
    _, probe, _ = guided_run(sd15, host.latent(24, 40, 2, seed=3), denoise=0.5, steps=2)
    assert len(probe.evaluations) == 2


def test_a_denoise_mask_leaves_the_labels_of_the_whole_picture(sd15):
    mask = torch.zeros(1, 1, 24, 40)
    mask[..., :20] = 1
    image = host.latent(12, 12, seed=3)
    output, *_ = guided_run(sd15, image | {"noise_mask": mask}, denoise=0.6)
    torch.testing.assert_close(output[..., 20:], image["samples"][..., 20:])


def test_cfg_1_costs_no_call_and_changes_nothing(sd15):
    plain = host.ksample(sd15, *PROMPTS, host.latent(), cfg=1.0)
    with Probe(sd15) as probe:
        guided = scfg(probe.patcher)
        output = host.ksample(guided.model, *PROMPTS, host.latent(), cfg=1.0)
    assert torch.equal(output, plain)
    assert probe.calls == 2
    assert all(len(call.x) == 1 for each in probe.evaluations for call in each.calls)
    assert guided.line.startswith(f"S-CFG inactive: {Note.CFG_ONE.text}")


def test_cfg_1_without_the_hosts_shortcut_is_recorded_and_not_guided(sd15):
    model = sd15.clone()
    model.model_options["disable_cfg1_optimization"] = True
    plain = host.ksample(model, *PROMPTS, host.latent(26, 42, 2), cfg=1.0)
    guided = scfg(model)
    assert torch.equal(host.ksample(guided.model, *PROMPTS, host.latent(26, 42, 2), cfg=1.0), plain)
    assert guided.line.startswith("S-CFG observing: ")
    assert Note.CFG_ONE.text in guided.line
    assert len(guided.run.evaluations) > 0


def test_watching_sees_the_same_labels_and_is_bit_identical(sd15):
    plain = host.ksample(sd15, *PROMPTS, host.latent(26, 42, 2))
    watched = watching(sd15)
    assert torch.equal(host.ksample(watched.model, *PROMPTS, host.latent(26, 42, 2)), plain)
    guided = scfg(sd15)
    host.ksample(guided.model, *PROMPTS, host.latent(26, 42, 2))
    first, same = watched.run.evaluations[0], guided.run.evaluations[0]
    assert torch.equal(first.labels, same.labels)
    assert torch.equal(first.foreground, same.foreground)
    assert watched.line.startswith("S-CFG observing: 4 layers, grids 7×11 + 4×6, 77 tokens, 1 prompt")
