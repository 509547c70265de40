"""The product against the float64 transcription of the method: every setting, odd sizes, any batch and length."""

import numpy as np
import oracle
import pytest
import torch
from cases import (
    AUTHORS,
    DEFAULT,
    PAPER,
    SETTINGS,
    assert_ratio,
    assert_segmented,
    branch,
    image_of,
    noise,
    rng_of,
)

from scfg_core import Grid, LayerMaps, ratio_map, segment

SIZES = {
    # name: (grids of the layers, latent, batch, tokens, start tokens)
    "77_patches_77_tokens": ([Grid(7, 11)], Grid(65, 71), 1, 77, (0,)),
    "one_row": ([Grid(1, 9)], Grid(8, 72), 2, 2, (0,)),
    "one_column": ([Grid(6, 1), Grid(3, 1)], Grid(48, 8), 1, 7, (0,)),
    "odd_two_levels": ([Grid(9, 9), Grid(5, 5), Grid(5, 5)], Grid(65, 71), 4, 5, (0,)),
    "small_level_first": ([Grid(2, 3), Grid(4, 6), Grid(4, 6)], Grid(26, 42), 3, 20, (0,)),
    "three_chunks": ([Grid(4, 6), Grid(2, 3)], Grid(32, 48), 2, 231, (0, 77, 154)),
    "start_not_first": ([Grid(5, 4)], Grid(20, 16), 2, 12, (3,)),
    "no_start": ([Grid(5, 5)], Grid(40, 40), 1, 20, ()),
    "latent_smaller_than_grid": ([Grid(8, 8)], Grid(5, 7), 2, 6, (0,)),
}


def compare(rng, kind, size, settings, guidance_scale=7.5, word_weights=None):
    grids, latent, batch, tokens, start_tokens = size
    cond = branch(rng, kind, batch, grids, tokens)
    uncond = branch(rng, kind, batch, grids, tokens)
    segmentation = segment(cond, uncond, settings, start_tokens=start_tokens)
    for image in range(batch):
        expected = oracle.segment(image_of(cond, image), image_of(uncond, image), settings, start_tokens)
        assert_segmented(segmentation, expected, image)
        supported = np.isfinite(expected.scores)
        scores = segmentation.scores[image].numpy()
        np.testing.assert_allclose(scores[supported], expected.scores[supported], rtol=1e-5, atol=1e-7)
        assert (scores[~supported] == 0).all()
    delta = noise(rng, batch, latent)
    ratio = ratio_map(delta, segmentation, settings, guidance_scale, word_weights)
    assert_ratio(ratio, delta, segmentation, settings, guidance_scale, word_weights)
    return segmentation


@pytest.mark.parametrize("kind", ["random", "structured"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["paper", "default", "authors"])
def test_presets_equal_the_oracle_at_every_size(name, size, kind):
    compare(rng_of(1, len(size)), kind, SIZES[size], SETTINGS[name])


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_equals_the_oracle(name):
    compare(rng_of(2), "structured", ([Grid(6, 7), Grid(3, 4)], Grid(33, 35), 2, 11, (0,)), SETTINGS[name])


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_equals_the_oracle_at_high_guidance(name):
    compare(rng_of(3), "random", ([Grid(5, 5)], Grid(20, 21), 2, 6, (0,)), SETTINGS[name], guidance_scale=21.0)


@pytest.mark.parametrize("settings", [PAPER, DEFAULT, AUTHORS], ids=["paper", "default", "authors"])
def test_word_weights_equal_the_oracle(settings):
    weights = {0: 0.3, 1: 1.7, 2: 0.0, 4: 0.5}
    size = ([Grid(6, 7), Grid(3, 4)], Grid(24, 28), 2, 5, (0,))
    segmentation = compare(rng_of(4), "structured", size, settings, word_weights=weights)
    assert set(weights) & set(segmentation.labels.unique().tolist())


def test_several_starts_win_as_one_token():
    size = ([Grid(6, 7)], Grid(24, 28), 2, 9, (6, 0, 3))
    segmentation = compare(rng_of(5), "random", size, PAPER)
    seen = set(segmentation.labels.unique().tolist())
    assert 0 in seen and not seen & {3, 6}


def test_a_layer_without_self_attention_needs_no_powers():
    settings = SETTINGS["no_self_attention"]
    rng = rng_of(6)
    cond, uncond = (branch(rng, "random", 2, [Grid(4, 5)], 6) for _ in range(2))
    bare = [[LayerMaps(None, layer.cross_attention, layer.grid) for layer in layers] for layers in (cond, uncond)]
    assert segment(*bare, settings).labels.equal(segment(cond, uncond, settings).labels)


def test_segmentation_tells_its_grid_and_its_number_of_labels():
    rng = rng_of(7)
    cond, uncond = (branch(rng, "random", 2, [Grid(2, 3), Grid(4, 5)], 6) for _ in range(2))
    segmentation = segment(cond, uncond, PAPER)
    assert segmentation.grid == Grid(4, 5)
    assert segmentation.num_labels == 6
    assert segmentation.finite.tolist() == [True, True]
    assert segmentation.labels.shape == segmentation.foreground.shape == (2, 4, 5)


def test_lowest_label_wins_a_tie_and_a_tie_is_background():
    """Two equal words, and a START equal to the rest in half of the patches."""
    grid = Grid(2, 2)
    words = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.25, 0.375, 0.375], [0.25, 0.375, 0.375]])
    start = torch.tensor([[0.25, 0.75], [0.75, 0.25], [0.5, 0.5], [0.5, 0.5]])
    segmentation = segment(
        [LayerMaps(None, words[None], grid)],
        [LayerMaps(None, start[None], grid)],
        SETTINGS["no_self_attention"],
    )
    assert segmentation.labels.flatten().tolist() == [0, 0, 1, 1]
    assert segmentation.foreground.flatten().tolist() == [True, False, False, False]


def test_a_word_without_attention_never_wins():
    cross = torch.tensor([[0.6, 0.0, 0.4], [0.4, 0.0, 0.6]])[None]
    layers = [LayerMaps(None, cross, Grid(1, 2))]
    assert segment(layers, layers, SETTINGS["no_self_attention"]).labels.flatten().tolist() == [0, 2]
