"""Every size and batch: the grid comes from the layers, never from a square root or an aspect ratio."""

import pytest
import torch

from scfg_core import PRESETS

from . import host
from .expected import Prompt, check, scfg
from .probe import Probe

CAT, BLURRY = host.tokens(1), host.tokens(2)


def guided_run(model, image, *, settings=None, layers=host.SD15_LAYERS, **how):
    """One guided run of a prompt against another, checked against the oracle."""
    with Probe(model) as probe:
        guided = scfg(probe.patcher, settings)
        output = host.ksample(guided.model, host.conditioning(CAT), host.conditioning(BLURRY), image, **how)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)], settings=settings, layers=layers, evaluations=[1])
    return output


@pytest.mark.parametrize("size", [(65, 71), (26, 42), (40, 72), (64, 96), (8, 8), (9, 64)], ids=str)
def test_labels_and_guidance_are_those_of_the_layers_at_any_size(sd15, size):
    guided_run(sd15, host.latent(*size))


@pytest.mark.parametrize("images", [1, 2, 3, 4])
def test_every_image_of_a_batch_has_its_own(sd15, images):
    guided_run(sd15, host.latent(26, 42, images))


@pytest.mark.parametrize("size", [(16, 24), (21, 33)], ids=str)
def test_sdxl_layout(sdxl, size):
    guided_run(sdxl, host.latent(*size, 2), layers=host.SDXL_LAYERS)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets(sd15, preset):
    guided_run(sd15, host.latent(24, 40), settings=PRESETS[preset])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_models(dtype):
    guided_run(host.sd15(dtype=dtype), host.latent(24, 40))
