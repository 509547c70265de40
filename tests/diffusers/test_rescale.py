"""A pipeline's `guidance_rescale` matches the standard deviation of ε', as RescaleCFG does in ComfyUI."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion
from diffusers.pipelines.stable_diffusion_xl import pipeline_stable_diffusion_xl

from scfg_core import Settings, scfg

from .tiny import GAMMA, make, sample

MODULES = {"SD 1.5": pipeline_stable_diffusion, "SD 2.1, v-prediction": pipeline_stable_diffusion}
MODULES["XL"] = pipeline_stable_diffusion_xl


@pytest.mark.parametrize("kind", MODULES)
def test_the_pipeline_rescales_what_s_cfg_gives_it(kind, monkeypatch):
    pipe, share = make(kind), 0.7
    rescale_noise_cfg, raw, final, results = MODULES[kind].rescale_noise_cfg, [], [], []

    def spy(*call, **named):
        results.append(rescale_noise_cfg(*call, **named))
        return results[-1]

    monkeypatch.setattr(MODULES[kind], "rescale_noise_cfg", spy)
    first = pipe.unet.register_forward_hook(lambda *call: raw.append(call[-1][0]))
    strong = dict.fromkeys(range(7), 30.0)
    with scfg(pipe, Settings(cap="none"), word_weights=strong):
        last = pipe.unet.register_forward_hook(lambda *call: final.append(call[-1][0]))
        sample(pipe, kind, num_inference_steps=1, guidance_rescale=share)
        last.remove()
    first.remove()
    uncond, changed = final[0].chunk(2)
    _, cond = raw[0].chunk(2)
    assert len(results) == 1
    expected = rescale_noise_cfg(uncond + GAMMA * (changed - uncond), changed, guidance_rescale=share)
    torch.testing.assert_close(results[0], expected, rtol=1e-4, atol=1e-5)
    unmoved = rescale_noise_cfg(uncond + GAMMA * (changed - uncond), cond, guidance_rescale=share)
    assert not torch.allclose(unmoved, expected, rtol=1e-3)
