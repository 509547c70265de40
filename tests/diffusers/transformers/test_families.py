"""Every family of transformers, through diffusers' own pipelines: attach → sample → detach, against the oracle."""

from dataclasses import replace

import pytest
import torch

from scfg_core import Settings, scfg

from ..states import state
from .expected import check, guided_run
from .tiny import KINDS, make, sample

NAMES = list(KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_labels_foreground_and_guidance_are_the_oracles(name):
    pipe = make(name)
    probe, run, latents = guided_run(pipe, KINDS[name], images=2)
    check(probe, run, images=2)
    assert torch.isfinite(latents).all()
    assert [len(step.forwards) for step in probe.steps] == [2 if KINDS[name].separate else 1] * 3


@pytest.mark.parametrize("name", NAMES)
def test_attach_sample_detach(name):
    pipe = make(name)
    plain = sample(pipe, name)
    before = state(pipe.transformer)
    methods = [pipe.transformer.forward.__func__, pipe.scheduler.step.__func__]
    with scfg(pipe, **KINDS[name].given) as run:
        guided = sample(pipe, name)
    assert state(pipe.transformer) == before
    assert [pipe.transformer.forward.__func__, pipe.scheduler.step.__func__] == methods
    assert torch._C._len_torch_function_stack() == 0
    assert torch.equal(sample(pipe, name), plain)
    assert not torch.allclose(guided, plain, atol=1e-4)
    assert len(run.evaluations) == 3 and all(each.fresh for each in run.evaluations)
    assert [run.step_of(each) for each in run.evaluations] == [0, 1, 2] and len(run.schedule) == 4
    assert not run.notes


@pytest.mark.parametrize("name", NAMES)
def test_watching_changes_no_bit(name):
    pipe = make(name)
    plain = sample(pipe, name, images=2)
    with scfg(pipe, Settings(strength=0), **KINDS[name].given) as run:
        assert torch.equal(sample(pipe, name, images=2), plain)
    assert len(run.evaluations) == 3 and len(run.evaluations[0].labels.unique()) > 2
    with scfg(pipe, Settings(start=0.4, end=0.6), **KINDS[name].given) as run:
        sample(pipe, name, images=2)
    assert [bool((each.ratio == 1).all()) for each in run.evaluations] == [True, True, True]
    with scfg(pipe, Settings(ratio_min=1, ratio_max=1), **KINDS[name].given):
        torch.testing.assert_close(sample(pipe, name, images=2), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_with_text_and_image_in_the_other_order_the_check_fails(name):
    kind = KINDS[name]

    def swapped(text: int, image: int):
        keys, words, patches = kind.order(text, image)
        return keys, slice(keys - words.stop, keys - words.start), slice(keys - patches.stop, keys - patches.start)

    probe, run, _ = guided_run(make(name), replace(kind, order=swapped))
    with pytest.raises(AssertionError):
        check(probe, run)


@pytest.mark.parametrize("name", ["SD 3", "Chroma", "Z-Image"])
@pytest.mark.parametrize("preset", ["paper", "authors", "balanced"])
def test_presets(name, preset):
    settings = Settings.preset(preset)
    probe, run, _ = guided_run(make(name), KINDS[name], settings=settings)
    check(probe, run, settings=settings)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(4, 22), (16, 6)])
def test_sizes_that_are_no_squares(name, size):
    probe, run, _ = guided_run(make(name), KINDS[name], size=size)
    check(probe, run, size=size)
