"""How many operations an evaluation of ours takes: on a GPU each is a launch, on a CPU some microseconds."""

import pytest
import torch

from benchmarks.launches import MODELS, count
from scfg_core import Prompt
from scfg_core.method.guidance import guidance_norm


@pytest.mark.parametrize(("backend", "most"), [("triton", 90), ("pytorch", 115)])
def test_an_evaluation_of_sd_15_launches_no_more_than_it_did(backend, most):
    assert count(MODELS[0], 64, 1, backend).operations.total() <= most


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
