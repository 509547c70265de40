"""Empty regions, flat START maps, prompts of one token: nothing to divide by."""

from dataclasses import replace

import pytest
import torch
from cases import (
    AUTHORS,
    BUDGETS,
    DEFAULT,
    PAPER,
    SETTINGS,
    SMALL_GRIDS,
    assert_ratio,
    by_hand,
    feed,
    gathered,
    noise,
    pair,
    rng_of,
    two,
    two_branches,
)

from scfg_core import (
    EntryMaps,
    Grid,
    Prompt,
    TokenMaps,
    ratio_map,
    segment,
    segment_entries,
)
from scfg_core.collect.collector import Collector

PRESETS = pytest.mark.parametrize("settings", [PAPER, DEFAULT, AUTHORS], ids=["paper", "default", "authors"])


def test_benchmark_without_a_pixel_is_all():
    delta = noise(rng_of(90), 1, Grid(8, 8))
    empty = by_hand([[0, 1], [1, 1]], [[False, False], [False, False]])
    everything = by_hand([[0, 1], [1, 1]], [[True, True], [True, True]])
    for settings in SETTINGS.values():
        assert ratio_map(delta, empty, settings, 7.5).equal(ratio_map(delta, everything, settings, 7.5))


def test_foreground_whose_pixels_are_all_broken_is_all():
    delta = noise(rng_of(91), 1, Grid(8, 8))
    delta[:, :, :4, :4] = float("nan")
    segmentation = by_hand([[0, 1], [1, 1]], [[True, False], [False, False]])
    for settings in SETTINGS.values():
        assert_ratio(ratio_map(delta, segmentation, settings, 7.5), delta, segmentation, settings, 7.5)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("ripple", [0.0, 5e-4])
def test_constant_start_measures_against_all(name, ripple):
    """A zeroed negative prompt attends to all tokens alike, up to noise."""
    cond, uncond = two(rng_of(92))
    for layer in uncond:
        layer.cross_attention[:] = 1 / 6
        layer.cross_attention[:, 0, 0] *= 1 + ripple
    segmentation = segment(cond, uncond, SETTINGS[name])
    assert segmentation.foreground.all()
    assert segmentation.has_foreground.tolist() == [False, False]


@PRESETS
def test_start_that_says_something_is_heard(settings):
    settings = replace(settings, power_weights=(1,), smooth_maps=False)
    cond, uncond = two(rng_of(93), grids=[Grid(5, 6)])
    uncond[0].cross_attention[:] = 1 / 6
    uncond[0].cross_attention[:, 7, 0] *= 1 - 2e-3
    segmentation = segment(cond, uncond, settings)
    assert segmentation.has_foreground.all()
    assert segmentation.foreground[0].flatten().nonzero().tolist() == [[7]]


@pytest.mark.parametrize("rule", ["start_vs_rest", "argmax"])
def test_constant_start_on_a_part_of_the_picture_says_nothing(rule):
    """A zeroed negative prompt with a mask or an area: where it is not, START is not either."""
    settings, grid, weight = replace(PAPER, foreground_rule=rule), Grid(4, 4), torch.zeros(8, 8)
    weight[:, :4] = 1.0
    text = EntryMaps(TokenMaps(torch.rand(1, 16, 6) + 0.1, grid), Prompt.plain("cond", 6))
    flat = TokenMaps(0.5 + 1e-4 * torch.rand(1, 16, 2 if rule == "start_vs_rest" else 6), grid)
    negative = EntryMaps(flat, Prompt.plain("uncond", 6), weight=weight)
    segmentation = segment_entries([text], [negative], settings, Grid(8, 8))
    assert not segmentation.has_foreground.any() and segmentation.foreground.all()


def test_start_says_nothing_for_one_image_only():
    cond, uncond = two(rng_of(94), batch=2)
    clean = segment(cond, uncond, PAPER)
    for layer in uncond:
        layer.cross_attention[1] = 1 / 6
    segmentation = segment(cond, uncond, PAPER)
    assert segmentation.has_foreground.tolist() == [True, False]
    assert segmentation.foreground[1].all() and segmentation.foreground[0].equal(clean.foreground[0])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("tokens", [1, 2])
def test_prompt_of_start_alone_is_one_region(name, tokens):
    rng, settings = rng_of(95), SETTINGS[name]
    cond, uncond = two(rng, tokens=tokens)
    segmentation = segment(cond, uncond, settings)
    delta = noise(rng, 2, Grid(20, 24))
    ratio = ratio_map(delta, segmentation, settings, 7.5)
    assert ratio.isfinite().all()
    assert_ratio(ratio, delta, segmentation, settings, 7.5)
    if tokens == 1:
        assert (segmentation.labels == 0).all() and segmentation.foreground.all()
        assert not segmentation.has_foreground.any()
        if settings.regions == "semantic":
            torch.testing.assert_close(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
@pytest.mark.parametrize("name", ["paper", "authors", "argmax_foreground"])
def test_prompt_of_start_alone_through_the_collector(name, backend):
    blocks = [pair(rng_of(96), f"block{i}", grid, 2, 1) for i, grid in enumerate(SMALL_GRIDS)]
    collector = Collector(SETTINGS[name], budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(1, 1)
    collector.begin(prompts)
    feed(collector, blocks, rows)
    segmentation = gathered(collector, SETTINGS[name], Grid(10, 12))
    assert (segmentation.labels == 0).all() and segmentation.foreground.all() and segmentation.finite.all()


@pytest.mark.parametrize("name", SETTINGS)
def test_one_patch_is_one_region(name):
    rng, settings = rng_of(97), SETTINGS[name]
    cond, uncond = two(rng, grids=[Grid(1, 1)], tokens=4)
    segmentation = segment(cond, uncond, settings)
    delta = noise(rng, 2, Grid(3, 5))
    ratio = ratio_map(delta, segmentation, settings, 7.5)
    torch.testing.assert_close(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("name", SETTINGS)
def test_delta_of_zero_is_cfg(name):
    segmentation = segment(*two(rng_of(98)), SETTINGS[name])
    ratio = ratio_map(torch.zeros(2, 4, 20, 24), segmentation, SETTINGS[name], 7.5)
    torch.testing.assert_close(ratio, torch.ones_like(ratio))


def test_region_without_guidance_gets_one():
    delta = noise(rng_of(99), 1, Grid(8, 8))
    delta[..., :4] = 0
    ratio = ratio_map(delta, by_hand([[0, 1]], [[True, True]]), PAPER, 7.5)
    assert (ratio[..., :4] == 1).all()
    torch.testing.assert_close(ratio[..., 4:], torch.full((1, 1, 8, 4), 0.5))


def test_word_weights_of_zero_everywhere_stay_finite():
    segmentation = by_hand([[0, 1]], [[True, True]])
    ratio = ratio_map(
        noise(rng_of(100), 1, Grid(8, 8)), segmentation, SETTINGS["mean_preserving"], 7.5, {0: 0, 1: 0}
    )
    assert ratio.isfinite().all()


def test_segmentation_of_no_positive_entry_anywhere_is_cfg():
    segmentation = by_hand([[-1, -1]], [[True, True]])
    for settings in SETTINGS.values():
        ratio = ratio_map(noise(rng_of(101), 1, Grid(8, 8)), segmentation, settings, 7.5)
        assert ratio.equal(torch.ones_like(ratio))
