"""How many operations an evaluation of ours takes: on a GPU each is a launch, on a CPU some microseconds."""

import pytest
import torch

from benchmarks.launches import MODELS, count
from scfg_core import Prompt
from scfg_core.collect.budget import MIB
from scfg_core.method.guidance import guidance_norm


@pytest.mark.parametrize("backend", ["triton", "pytorch"])
def test_an_evaluation_of_sd_15_launches_no_more_than_it_did(backend):
    launched = count(MODELS[0], 64, 1, backend)[0].operations
    assert launched.total() <= 100 and not any(name.startswith("scfg") for name in launched), "small: no kernels"


def test_the_large_layers_of_an_evaluation_are_triton_s_where_it_works():
    launched = count(MODELS[1], 128, 1, "triton")[0].operations
    assert launched["scfg.split_mean.default"] >= 2 and "aten.baddbmm.default" not in launched


@pytest.mark.parametrize(("backend", "most"), [("triton", 150), ("pytorch", 400)])
@pytest.mark.parametrize(("model", "latent"), [(model, latent) for model in MODELS for latent in model.latents])
def test_an_evaluation_of_any_model_launches_some_hundreds_at_most(model, latent, backend, most):
    assert all(count(model, latent, images, backend)[0].operations.total() <= most for images in (1, 4))


@pytest.mark.parametrize(("backend", "most"), [("triton", 600), ("pytorch", 450)])
@pytest.mark.parametrize("latent", [128, 256])
def test_one_image_of_sdxl_needs_one_map_at_a_time(latent, backend, most):
    """S of a 256² latent takes 512 MiB by Triton; blocks of scores by PyTorch 384."""
    assert count(MODELS[1], latent, 1, backend)[1] <= most * MIB


def test_a_host_that_describes_the_same_prompt_again_gets_the_same_object():
    first = Prompt.plain("cond", 77, [0], ["a"] * 77, [0] * 77)
    assert Prompt.plain("cond", 77, (0,), ("a",) * 77, (0,) * 77) is first
    assert Prompt.plain("uncond", 77, (0,), ("a",) * 77, (0,) * 77) is not first


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_norm_is_that_of_pytorch_in_full_precision(dtype):
    delta = (300 * torch.randn(2, 4, 5, 7, generator=torch.Generator().manual_seed(1))).to(dtype)
    found = guidance_norm(delta)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found.double(), torch.linalg.vector_norm(delta.double(), dim=1), rtol=1e-6, atol=0)
