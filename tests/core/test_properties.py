"""What must hold for any input (hypothesis, derandomised)."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from cases import (
    AUTHORS,
    DEFAULT,
    PAPER,
    SETTINGS,
    alone,
    array,
    branch,
    image_of,
    noise,
    rng_of,
    tensor,
)
from hypothesis import given
from hypothesis import strategies as st

from scfg_core import Grid, LayerMaps, Segmentation, combine, guidance_norm, ratio_map, rescale, segment

SEEDS = st.integers(0, 10_000)
SIDES = st.integers(1, 9)
SCALES = st.sampled_from([0.0, -1.0, 1.0, 7.5, 15.0, 30.0])
NAMES = st.sampled_from(sorted(SETTINGS))
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
BARE = replace(PAPER, smooth_ratio=False)


def drawn_segmentation(rng, batch, grid, labels=6, unowned=False):
    """Labels and a foreground by chance."""
    low = -1 if unowned else 0
    return Segmentation(
        labels=torch.from_numpy(rng.integers(low, labels, (batch, grid.h, grid.w))),
        foreground=torch.from_numpy(rng.uniform(size=(batch, grid.h, grid.w)) < 0.5),
    )


# ---- plain CFG ---------------------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from([0.0, -1.0, 1.0, 7.5, 15.0, 30.0]), DTYPES)
def test_ratios_of_one_are_cfg_to_the_bit(seed, scale, dtype):
    rng = rng_of(50, seed)
    cond, uncond = (tensor(rng.standard_normal((2, 4, 5, 7)), dtype) for _ in range(2))
    out = combine(cond, uncond, torch.ones(2, 1, 5, 7), scale)
    assert out.dtype == rescale(cond, uncond, torch.ones(2, 1, 5, 7)).dtype == dtype
    assert out.equal(uncond + scale * (cond - uncond))


@given(SEEDS, SIDES, SIDES, SCALES, NAMES)
def test_strength_zero_is_cfg_to_the_bit(seed, h, w, scale, name):
    rng = rng_of(51, seed)
    cond, uncond = (noise(rng, 2, Grid(2 * h + 1, 2 * w)) for _ in range(2))
    segmentation = drawn_segmentation(rng, 2, Grid(h, w), unowned=True)
    ratio = ratio_map(cond - uncond, segmentation, replace(SETTINGS[name], strength=0.0), scale, {0: 0.5, 1: 3.0})
    assert ratio.equal(torch.ones_like(ratio))
    assert combine(cond, uncond, ratio, scale).equal(uncond + scale * (cond - uncond))


@given(SEEDS, st.floats(-20, 40))
def test_combine_is_equation_12(seed, scale):
    rng = rng_of(52, seed)
    cond, uncond = (tensor(rng.standard_normal((2, 4, 5, 7))) for _ in range(2))
    ratio = tensor(rng.uniform(0, 3, (2, 1, 5, 7)))
    expected = oracle.combine(array(cond), array(uncond), array(ratio), scale)
    np.testing.assert_allclose(array(combine(cond, uncond, ratio, scale)), expected, rtol=1e-5, atol=1e-4)


@given(SEEDS, st.floats(0.5, 30))
def test_replaced_conditional_prediction_lets_the_host_do_the_guidance(seed, scale):
    """ε' = ε∅ + r ⊙ (ε_c − ε∅) through plain CFG is Eq. 12."""
    rng = rng_of(53, seed)
    cond, uncond = (tensor(rng.standard_normal((1, 4, 5, 7)), torch.float64) for _ in range(2))
    ratio = tensor(rng.uniform(0, 3, (1, 1, 5, 7)), torch.float64)
    replaced = rescale(cond, uncond, ratio)
    torch.testing.assert_close(combine(cond, uncond, ratio, scale), uncond + scale * (replaced - uncond))


@given(SEEDS, DTYPES)
def test_guidance_norm_is_taken_over_channels_in_single(seed, dtype):
    delta = noise(rng_of(49, seed), 2, Grid(5, 7), dtype=dtype)
    expected = np.sqrt((array(delta) ** 2).sum(axis=1))
    assert guidance_norm(delta).dtype == torch.float32
    np.testing.assert_allclose(array(guidance_norm(delta)), expected, rtol=1e-6)


# ---- the ratio map -----------------------------------------------------------------------------------------


@given(SEEDS, SIDES, SIDES, SCALES, NAMES)
def test_ratio_map_equals_the_oracle_for_any_labels(seed, h, w, scale, name):
    rng = rng_of(54, seed)
    latent = Grid(int(rng.integers(1, 4 * h + 2)), int(rng.integers(1, 4 * w + 2)))
    segmentation = drawn_segmentation(rng, 2, Grid(h, w), unowned=bool(rng.integers(2)))
    delta = noise(rng, 2, latent)
    weights = {int(rng.integers(6)): float(rng.uniform(0, 2))} if rng.integers(2) else None
    ratio = ratio_map(delta, segmentation, SETTINGS[name], scale, weights)
    for image in range(2):
        expected = oracle.ratio_map(
            array(delta[image]),
            segmentation.labels[image].numpy(),
            segmentation.foreground[image].numpy(),
            SETTINGS[name],
            scale,
            weights,
        )
        np.testing.assert_allclose(array(ratio[image, 0]), expected, rtol=1e-5)


@given(SEEDS, SIDES, SIDES, st.floats(-10, 0), NAMES)
def test_no_guidance_leaves_every_ratio_at_one(seed, h, w, scale, name):
    rng = rng_of(55, seed)
    ratio = ratio_map(noise(rng, 1, Grid(9, 8)), drawn_segmentation(rng, 1, Grid(h, w)), SETTINGS[name], scale)
    assert ratio.equal(torch.ones_like(ratio))


@given(SEEDS, st.sampled_from([2.0**-20, 0.25, 3.0, 1000.0, 2.0**20]), NAMES)
def test_scaling_delta_leaves_the_ratio_unchanged(seed, factor, name):
    rng = rng_of(56, seed)
    delta, segmentation = noise(rng, 2, Grid(11, 13)), drawn_segmentation(rng, 2, Grid(4, 5))
    plain = ratio_map(delta, segmentation, SETTINGS[name], 7.5)
    torch.testing.assert_close(
        ratio_map(factor * delta, segmentation, SETTINGS[name], 7.5), plain, rtol=1e-5, atol=0
    )


@given(SEEDS)
def test_paper_ratio_brings_every_region_to_the_benchmark(seed):
    """After Eq. 13 the mean of r·η is the same in every region: that of the foreground."""
    rng = rng_of(57, seed)
    delta, segmentation = noise(rng, 1, Grid(12, 15)), drawn_segmentation(rng, 1, Grid(4, 5))
    strength = ratio_map(delta, segmentation, BARE, 7.5)[0, 0] * delta.norm(dim=1)[0]
    labels = segmentation.labels[0].repeat_interleave(3, 0).repeat_interleave(3, 1)
    inside = segmentation.foreground[0].repeat_interleave(3, 0).repeat_interleave(3, 1)
    benchmark = delta.norm(dim=1)[0][inside].mean() if inside.any() else delta.norm(dim=1).mean()
    for label in labels.unique():
        torch.testing.assert_close(strength[labels == label].mean(), benchmark, rtol=1e-5, atol=0)


@given(SEEDS, SIDES, SIDES)
def test_patch_regions_make_every_patch_equally_strong(seed, h, w):
    rng = rng_of(58, seed)
    delta, segmentation = noise(rng, 1, Grid(2 * h, 3 * w)), drawn_segmentation(rng, 1, Grid(h, w), labels=1)
    ratio = ratio_map(delta, segmentation, replace(BARE, regions="patch", benchmark="all"), 7.5)
    strength = (ratio[0, 0] * delta.norm(dim=1)[0]).reshape(h, 2, w, 3).mean((1, 3))
    torch.testing.assert_close(strength, torch.full((h, w), float(delta.norm(dim=1).mean())), rtol=1e-5, atol=0)


@given(SEEDS, st.sampled_from([1.0, 7.5, 15.0, 30.0]))
def test_mean_preserving_keeps_the_mean_of_every_image(seed, scale):
    rng = rng_of(59, seed)
    delta, segmentation = noise(rng, 3, Grid(11, 13)), drawn_segmentation(rng, 3, Grid(4, 5))
    ratio = ratio_map(delta, segmentation, replace(DEFAULT, mean_preserving=True), scale, {1: 2.0})
    torch.testing.assert_close(ratio.mean((1, 2, 3)), torch.ones(3), rtol=1e-5, atol=0)
    assert ratio.std() > 0


@given(SEEDS, st.floats(0, 1))
def test_strength_is_the_share_of_the_way(seed, strength):
    rng = rng_of(60, seed)
    delta, segmentation = noise(rng, 1, Grid(11, 13)), drawn_segmentation(rng, 1, Grid(4, 5))
    full = ratio_map(delta, segmentation, DEFAULT, 7.5)
    part = ratio_map(delta, segmentation, replace(DEFAULT, strength=strength), 7.5)
    torch.testing.assert_close(part, 1 + strength * (full - 1), rtol=1e-6, atol=1e-6)


@given(SEEDS, st.sampled_from([1.0, 15.0, 15.1, 30.0, 100.0]))
def test_caps_hold_where_they_say(seed, scale):
    rng = rng_of(61, seed)
    delta, segmentation = noise(rng, 1, Grid(11, 13)), drawn_segmentation(rng, 1, Grid(4, 5))
    highest = {
        cap: float(ratio_map(delta, segmentation, replace(DEFAULT, cap=cap), scale, {2: 40.0}).max())
        for cap in ("none", "hard", "soft")
    }
    assert highest["hard"] <= 15 / scale * (1 + 1e-6)
    assert highest["soft"] <= max(1, 15 / scale) * (1 + 1e-6)
    assert highest["none"] >= highest["soft"] >= highest["hard"]


def test_clamp_is_inclusive_and_holds_without_smoothing():
    rng = rng_of(62)
    settings = replace(BARE, ratio_min=0.9, ratio_max=1.1)
    ratio = ratio_map(noise(rng, 1, Grid(20, 20)), drawn_segmentation(rng, 1, Grid(5, 5), labels=25), settings, 7.5)
    assert float(ratio.min()) == pytest.approx(0.9) and float(ratio.max()) == pytest.approx(1.1)


@given(SEEDS, st.sampled_from([0.0, 0.8]))
def test_word_weight_halves_its_region_even_below_ratio_min(seed, ratio_min):
    rng = rng_of(63, seed)
    settings = replace(BARE, ratio_min=ratio_min, ratio_max=1.2)
    delta, segmentation = noise(rng, 2, Grid(16, 15)), drawn_segmentation(rng, 2, Grid(4, 5), labels=3)
    plain = ratio_map(delta, segmentation, settings, 7.5)
    halved = ratio_map(delta, segmentation, settings, 7.5, {1: 0.5})
    region = segmentation.labels.repeat_interleave(4, 1).repeat_interleave(3, 2)[:, None] == 1
    torch.testing.assert_close(halved[region], plain[region] / 2, rtol=1e-6, atol=0)
    assert halved[~region].equal(plain[~region])
    if ratio_min:
        assert (halved[region] < 0.8).any()


def test_word_weights_follow_the_word_with_patch_regions():
    rng = rng_of(64)
    settings = replace(BARE, regions="patch")
    delta, segmentation = noise(rng, 1, Grid(16, 15)), drawn_segmentation(rng, 1, Grid(4, 5), labels=3)
    plain = ratio_map(delta, segmentation, settings, 7.5)
    doubled = ratio_map(delta, segmentation, settings, 7.5, {2: 2.0})
    region = segmentation.labels.repeat_interleave(4, 1).repeat_interleave(3, 2)[:, None] == 2
    torch.testing.assert_close(doubled, torch.where(region, 2 * plain, plain), rtol=1e-6, atol=0)


@given(SEEDS, NAMES)
def test_each_image_of_a_batch_has_its_own_ratio(seed, name):
    rng = rng_of(65, seed)
    delta, segmentation = noise(rng, 3, Grid(11, 13)), drawn_segmentation(rng, 3, Grid(4, 5), unowned=True)
    together = ratio_map(delta, segmentation, SETTINGS[name], 7.5, {1: 0.5})
    for image in range(3):
        one = slice(image, image + 1)
        single = Segmentation(labels=segmentation.labels[one], foreground=segmentation.foreground[one])
        torch.testing.assert_close(
            ratio_map(delta[one], single, SETTINGS[name], 7.5, {1: 0.5}), together[one], rtol=1e-6, atol=0
        )


@given(SEEDS)
def test_names_of_labels_do_not_matter(seed):
    rng = rng_of(66, seed)
    delta, segmentation = noise(rng, 1, Grid(11, 13)), drawn_segmentation(rng, 1, Grid(4, 5))
    renamed = Segmentation(labels=75 - 11 * segmentation.labels, foreground=segmentation.foreground)
    torch.testing.assert_close(
        ratio_map(delta, segmentation, DEFAULT, 7.5),
        ratio_map(delta, renamed, DEFAULT, 7.5),
        rtol=1e-6,
        atol=0,
    )


@given(SEEDS)
def test_order_of_channels_does_not_matter(seed):
    rng = rng_of(67, seed)
    delta, segmentation = noise(rng, 1, Grid(11, 13), channels=16), drawn_segmentation(rng, 1, Grid(4, 5))
    shuffled = delta[:, torch.from_numpy(rng.permutation(16))]
    torch.testing.assert_close(
        ratio_map(delta, segmentation, DEFAULT, 7.5),
        ratio_map(shuffled, segmentation, DEFAULT, 7.5),
        rtol=1e-5,
        atol=0,
    )


# ---- labels ------------------------------------------------------------------------------------------------


def permuted(layers, order):
    return [
        LayerMaps(layer.self_attention[:, order][:, :, order], layer.cross_attention[:, order], layer.grid)
        for layer in layers
    ]


@given(SEEDS, SIDES, SIDES, st.integers(2, 12))
def test_permuting_the_patches_of_one_grid_permutes_the_labels(seed, h, w, tokens):
    rng, grid = rng_of(68, seed), Grid(h, w)
    cond, uncond = (branch(rng, "random", 1, [grid, grid], tokens, torch.float64) for _ in range(2))
    order = torch.from_numpy(rng.permutation(grid.area))
    plain = segment(cond, uncond, PAPER)
    mixed = segment(permuted(cond, order), permuted(uncond, order), PAPER)
    expected = oracle.segment(image_of(cond, 0), image_of(uncond, 0), PAPER)
    clear = torch.from_numpy(~expected.tied.ravel())[order]
    assert mixed.labels.flatten()[clear].equal(plain.labels.flatten()[order][clear])
    clear = torch.from_numpy(~expected.fg_tied.ravel())[order]
    assert mixed.foreground.flatten()[clear].equal(plain.foreground.flatten()[order][clear])


@given(SEEDS, NAMES)
def test_permuting_the_words_permutes_the_labels(seed, name):
    rng, grid = rng_of(69, seed), Grid(4, 5)
    cond, uncond = (branch(rng, "random", 1, [grid, Grid(2, 3)], 7) for _ in range(2))
    order = torch.from_numpy(np.concatenate([[0], 1 + rng.permutation(6)]))
    shuffled = [LayerMaps(x.self_attention, x.cross_attention[..., order], x.grid) for x in cond]
    expected = oracle.segment(image_of(cond, 0), image_of(uncond, 0), SETTINGS[name])
    clear = torch.from_numpy(~expected.tied)
    plain, mixed = segment(cond, uncond, SETTINGS[name]), segment(shuffled, uncond, SETTINGS[name])
    assert order[mixed.labels[0][clear]].equal(plain.labels[0][clear])


@given(SEEDS, st.sampled_from([PAPER, AUTHORS]))
def test_each_image_of_a_batch_has_its_own_labels(seed, settings):
    rng = rng_of(70, seed)
    cond, uncond = (branch(rng, "structured", 3, [Grid(5, 4), Grid(3, 2)], 6) for _ in range(2))
    together = segment(cond, uncond, settings)
    for image in range(3):
        single = segment(alone(cond, image), alone(uncond, image), settings)
        assert single.labels[0].equal(together.labels[image])
        assert single.foreground[0].equal(together.foreground[image])


@given(SEEDS, st.floats(0.01, 100))
def test_loudness_of_a_word_does_not_matter(seed, factor):
    """Eq. 9's renormalisation: a word attended to a hundred times less wins the same patches."""
    rng, grid = rng_of(71, seed), Grid(5, 6)
    cond, uncond = (branch(rng, "structured", 1, [grid], 5) for _ in range(2))
    loud = cond[0].cross_attention.clone()
    loud[..., 2] *= factor
    expected = oracle.segment(image_of(cond, 0), image_of(uncond, 0), PAPER)
    clear = torch.from_numpy(~expected.tied)
    labels = segment([LayerMaps(cond[0].self_attention, loud, grid)], uncond, PAPER).labels[0]
    assert labels[clear].equal(segment(cond, uncond, PAPER).labels[0][clear])


@given(SEEDS)
def test_foreground_is_where_start_is_below_its_mean(seed):
    """With rows that sum to 1, Eq. 14 is one comparison."""
    rng, grid = rng_of(72, seed), Grid(5, 6)
    cond, uncond = (branch(rng, "structured", 1, [grid], 5) for _ in range(2))
    ((self_map, cross, _),) = image_of(uncond, 0)
    start = oracle.propagate(self_map, cross[:, :1], PAPER.power_weights)[:, 0]
    below, clear = start < start.mean(), np.abs(start - start.mean()) > 1e-5 * start.mean()
    foreground = segment(cond, uncond, PAPER).foreground[0].numpy().ravel()
    assert np.array_equal(foreground[clear], below[clear])
