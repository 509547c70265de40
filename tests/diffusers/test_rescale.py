"""A pipeline's `guidance_rescale` matches the std of the model's own conditional prediction, not of ours."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl

from scfg_core import Settings
from scfg_core.guidance import std_correction
from scfg_core.hosts.diffusers import scfg

from .tiny import GAMMA, make, random, sample

MODULES = {"SD 1.5": pipeline_stable_diffusion, "SD 2.1, v-prediction": pipeline_stable_diffusion}
MODULES["XL"] = pipeline_stable_diffusion_xl


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_diffusers_own_line_gives_what_the_raw_std_would(share, dtype):
    uncond, cond, changed = (random(2, 4, 9, 7, seed=seed).to(dtype) for seed in (1, 2, 3))
    changed = changed * 1.7
    rescale = pipeline_stable_diffusion.rescale_noise_cfg
    wanted = rescale((uncond + GAMMA * (changed - uncond)).float(), cond.float(), share)
    factor = std_correction(cond, changed, uncond, GAMMA, share)
    u, c = uncond * factor, changed * factor
    torch.testing.assert_close(rescale(u + GAMMA * (c - u), c, share), wanted, rtol=2e-3, atol=2e-3)
    assert factor.shape == (2, 1, 1, 1)
    assert (factor == 1).all() == (share == 0)


def test_a_constant_prediction_needs_no_correction():
    flat = torch.zeros(1, 4, 3, 3)
    assert std_correction(flat, flat, flat, GAMMA, 0.7) == 1


@pytest.mark.parametrize("kind", MODULES)
def test_the_pipeline_gives_what_the_raw_std_would(kind, monkeypatch):
    pipe, share = make(kind), 0.7
    own, raw, final, results = MODULES[kind].rescale_noise_cfg, [], [], []

    def spy(*call, **named):
        results.append(own(*call, **named))
        return results[-1]

    monkeypatch.setattr(MODULES[kind], "rescale_noise_cfg", spy)
    first = pipe.unet.register_forward_hook(lambda *call: raw.append(call[-1][0]))
    strong = {token: 30.0 for token in range(7)}
    with scfg(pipe, Settings(cap="none"), word_weights=strong):
        last = pipe.unet.register_forward_hook(lambda *call: final.append(call[-1][0]))
        sample(pipe, kind, num_inference_steps=1)
        last.remove()
        sample(pipe, kind, num_inference_steps=1, guidance_rescale=share)
    first.remove()
    uncond, changed = final[0].chunk(2)
    _, cond = raw[0].chunk(2)
    assert len(results) == 1
    expected = own(uncond + GAMMA * (changed - uncond), cond, guidance_rescale=share)
    torch.testing.assert_close(results[0], expected, rtol=1e-4, atol=1e-5)
    wrong = own(uncond + GAMMA * (changed - uncond), changed, guidance_rescale=share)
    assert not torch.allclose(wrong, expected, rtol=1e-3)
