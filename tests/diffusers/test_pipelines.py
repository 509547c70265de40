"""Every pipeline of the paper, through diffusers' own classes: attach → sample → detach."""

import pytest
import torch

from scfg_core import Settings
from scfg_core.hosts.diffusers import scfg

from .states import state
from .tiny import GAMMA, KINDS, make, names_its_scale, sample

WATCH = Settings(strength=0)
ONES = Settings(ratio_min=1, ratio_max=1)


def attach(pipe, kind, settings=None):
    return scfg(pipe, settings, guidance_scale=None if names_its_scale(kind) else GAMMA)


@pytest.mark.parametrize("kind", KINDS)
def test_attach_sample_detach(kind):
    pipe = make(kind)
    before, plain = state(pipe.unet), sample(pipe, kind)
    with attach(pipe, kind) as run:
        guided = sample(pipe, kind)
    assert state(pipe.unet) == before
    assert torch.equal(sample(pipe, kind), plain)
    assert not torch.allclose(guided, plain, atol=1e-4)
    assert torch.isfinite(guided).all()
    assert {each.guidance_scale for each in run.evaluations} == {GAMMA}
    assert len(run.evaluations) == (2 if "img2img" in kind else 3)
    assert not run.notes


@pytest.mark.parametrize("kind", KINDS)
def test_watching_is_bit_identical_and_ratios_of_1_are_plain_cfg(kind):
    pipe = make(kind)
    plain = sample(pipe, kind)
    with attach(pipe, kind, WATCH) as run:
        assert torch.equal(sample(pipe, kind), plain)
    assert all(each.fresh for each in run.evaluations)
    with attach(pipe, kind, ONES):
        torch.testing.assert_close(sample(pipe, kind), plain, rtol=1e-4, atol=1e-4)
