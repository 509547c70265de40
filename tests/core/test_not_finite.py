"""NaN and infinity in maps and predictions: the rest of the batch is spared."""

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
    Grid,
    ratio_map,
    segment,
)
from scfg_core.collect.collector import Collector

PRESETS = pytest.mark.parametrize("settings", [PAPER, DEFAULT, AUTHORS], ids=["paper", "default", "authors"])
BROKEN = pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=["nan", "inf", "-inf"])


@BROKEN
@pytest.mark.parametrize("name", SETTINGS)
def test_pixel_that_is_not_finite_leaves_all_means_and_gets_one(name, value):
    rng, settings = rng_of(85), SETTINGS[name]
    segmentation = segment(*two(rng), settings)
    delta = noise(rng, 2, Grid(20, 24))
    delta[0, 1, 3:6, 4:9] = value
    delta[0, 2, 19, 23] = value
    ratio = ratio_map(delta, segmentation, settings, 7.5)
    assert ratio.isfinite().all()
    assert (ratio[0, 0, 3:6, 4:9] == 1).all() and ratio[0, 0, 19, 23] == 1
    assert_ratio(ratio, delta, segmentation, settings, 7.5)


@pytest.mark.parametrize("scale", [7.5, 30.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_pixel_that_is_not_finite_is_one_for_its_neighbours_too(name, scale):
    """Neither its word's weight nor a cap below 1 reaches them through the smoothing."""
    rng, settings = rng_of(79), SETTINGS[name]
    segmentation = segment(*two(rng), settings)
    weights = {label: 0.4 + 0.3 * label for label in range(6)}
    delta = noise(rng, 2, Grid(20, 24))
    delta[1, 3, 2:17, 6:8] = float("nan")
    assert_ratio(
        ratio_map(delta, segmentation, settings, scale, weights), delta, segmentation, settings, scale, weights
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_delta_that_is_not_finite_anywhere_is_cfg(name):
    segmentation = segment(*two(rng_of(86)), SETTINGS[name])
    ratio = ratio_map(torch.full((2, 4, 20, 24), float("nan")), segmentation, SETTINGS[name], 7.5)
    assert ratio.equal(torch.ones_like(ratio))


@BROKEN
@PRESETS
@pytest.mark.parametrize("side", ["cond", "uncond"])
@pytest.mark.parametrize("which", ["self_attention", "cross_attention"])
def test_map_that_is_not_finite_spares_the_other_images(settings, side, which, value):
    rng = rng_of(87)
    cond, uncond = two(rng, batch=3)
    clean = segment(cond, uncond, settings)
    layers = {"cond": cond, "uncond": uncond}[side]
    getattr(layers[1], which)[1, 2, 3] = value
    segmentation = segment(cond, uncond, settings)
    assert segmentation.finite.tolist() == [True, False, True]
    assert (segmentation.labels[1] == -1).all()
    for image in (0, 2):
        assert segmentation.labels[image].equal(clean.labels[image])
        assert segmentation.foreground[image].equal(clean.foreground[image])
    delta = noise(rng, 3, Grid(20, 24))
    ratio, usual = (ratio_map(delta, one, settings, 7.5) for one in (segmentation, clean))
    assert ratio[1].equal(torch.ones_like(ratio[1]))
    assert ratio[0].equal(usual[0]) and ratio[2].equal(usual[2])


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
@pytest.mark.parametrize("part", ["q", "k", "cross_q", "cross_k"])
@pytest.mark.parametrize("row", [1, 3])
def test_query_or_key_that_is_not_finite_spares_the_other_images(part, row, backend):
    rng, tokens = rng_of(88), 6
    blocks = [pair(rng, f"block{i}", grid, 4, tokens) for i, grid in enumerate(SMALL_GRIDS)]
    seen = []
    for broken in (False, True):
        if broken:
            getattr(blocks[0], part)[row, 0, 2, 3] = float("nan")
        collector = Collector(PAPER, budget_mib=BUDGETS[backend])
        prompts, rows = two_branches(2, tokens)
        collector.begin(prompts)
        feed(collector, blocks, rows)
        seen.append(gathered(collector, PAPER, Grid(10, 12)))
    clean, spoilt = seen
    assert spoilt.finite.tolist() == [True, False]
    assert (spoilt.labels[1] == -1).all()
    assert spoilt.labels[0].equal(clean.labels[0]) and spoilt.foreground[0].equal(clean.foreground[0])


def test_patch_of_nobody_is_one_and_out_of_every_mean():
    rng = rng_of(89)
    segmentation = by_hand([[0, -1], [1, 1]], [[True, True], [False, True]])
    delta = noise(rng, 1, Grid(8, 8))
    for settings in SETTINGS.values():
        ratio = ratio_map(delta, segmentation, settings, 7.5)
        assert (ratio[0, 0, :4, 4:] == 1).all()
        assert_ratio(ratio, delta, segmentation, settings, 7.5)
    louder = delta.clone()
    louder[..., :4, 4:] *= 100
    settings = replace(PAPER, benchmark="all")
    assert ratio_map(louder, segmentation, settings, 7.5).equal(ratio_map(delta, segmentation, settings, 7.5))
