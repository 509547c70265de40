"""The formulas of guidance that are compared: where they must agree they do, and S-CFG takes part in all."""

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

from demo.model import DEFAULT
from demo.world import captions, held_out_scenes
from evaluation.small_model import sampling
from evaluation.small_model.sampling import Formula, load_fast, sample, starting_noise
from evaluation.small_model.system import WATCH
from scfg_core import Settings

FORMULAS = {"cfg": Formula(), "rescale": Formula(rescale=0.7), "apg": Formula(projected=True)}
ALMOST_1 = 1 + 1e-12


@pytest.fixture(scope="module")
def draw():
    model = load_fast(DEFAULT, "cpu")
    tokens, _ = captions(held_out_scenes(20, seed=4)[:2])
    noise = starting_noise([1, 2])

    def draw(scales, **options):
        return sample(model, tokens, noise, scales, steps=2, half=False, **options)

    return draw


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_at_scale_1_every_formula_is_the_conditional_prediction(draw, formula):
    alone, run = draw([1.0, 1.0], settings=Settings())
    assert run is None
    guided, _ = draw([ALMOST_1, ALMOST_1], formula=formula)
    assert torch.allclose(alone, guided, atol=1e-4)


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_watching_changes_no_image_and_guiding_does(draw, formula):
    plain, _ = draw([5.0, 5.0], formula=formula)
    watched, run = draw([5.0, 5.0], formula=formula, settings=WATCH)
    assert run is not None and len(run.evaluations) == 2
    assert torch.equal(plain, watched)
    guided, _ = draw([5.0, 5.0], formula=formula, settings=Settings())
    assert not torch.allclose(plain, guided, atol=1e-2)


def test_every_image_has_a_scale_of_its_own(draw):
    one, _ = draw([3.0, 3.0])
    mixed, _ = draw([3.0, 7.0])
    assert torch.allclose(one[0], mixed[0], atol=1e-4)
    assert not torch.allclose(one[1], mixed[1], atol=1e-2)


def test_rescale_holds_the_spread_of_a_prediction_to_that_of_the_conditional_one(draw, monkeypatch):
    """Under S-CFG that is ε', as in ComfyUI, not the model's own."""
    spreads = []

    def recorded(guided, cond, share):
        rescaled = rescale_noise_cfg(guided, cond, share)
        spreads.append((rescaled.std(dim=(1, 2, 3)), cond.std(dim=(1, 2, 3))))
        return rescaled

    monkeypatch.setattr(sampling, "rescale_noise_cfg", recorded)
    plain, _ = draw([10.0, 10.0], formula=Formula(rescale=1.0))
    guided, _ = draw([10.0, 10.0], formula=Formula(rescale=1.0), settings=Settings())
    assert all(torch.allclose(given, wanted, rtol=1e-4) for given, wanted in spreads)
    assert not torch.allclose(spreads[0][1], spreads[2][1], rtol=1e-4)
    assert not torch.allclose(plain, guided, atol=1e-2)
