"""The streaming side: however q and k come in, the labels are those of the maps."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
from cases import (
    AUTHORS,
    BUDGETS,
    LATENT,
    PAPER,
    SETTINGS,
    TWO_GRIDS,
    assert_segmented,
    blocks_of,
    cross_call,
    feed,
    gathered,
    maps_of,
    rng_of,
    same,
    segmented,
    self_call,
    tensor,
    two_branches,
)

from scfg_core import Grid, LayerMaps, segment
from scfg_core.collect.calls import Rows
from scfg_core.collect.collector import Collector

BOTH = pytest.mark.parametrize("settings", [PAPER, AUTHORS], ids=["paper", "authors"])


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("patches", "hard_cap", "two_fifths")])
def test_collected_labels_equal_the_oracle(name):
    rng, tokens, settings = rng_of(20), 11, SETTINGS[name]
    blocks = blocks_of(rng, 4, tokens)
    segmentation = segmented(settings, blocks, 2, tokens)
    for image in range(2):
        expected = oracle.segment(maps_of(blocks, 2 + image, tokens), maps_of(blocks, image, tokens), settings)
        assert_segmented(segmentation, expected, image)


@pytest.mark.parametrize("tokens", [2, 77, 231])
@BOTH
def test_collected_labels_equal_those_of_stored_maps(settings, tokens):
    rng, batch = rng_of(21, tokens), 2
    blocks = blocks_of(rng, 2 * batch, tokens)
    stored = []
    for first in (0, batch):
        layers = []
        per_image = [maps_of(blocks, first + image, tokens) for image in range(batch)]
        for index, grid in enumerate(TWO_GRIDS):
            self_map = np.stack([maps[index][0] for maps in per_image])
            cross = np.stack([maps[index][1] for maps in per_image])
            layers.append(LayerMaps(tensor(self_map), tensor(cross), grid))
        stored.append(layers)
    uncond, cond = stored
    assert same(segmented(settings, blocks, batch, tokens), segment(cond, uncond, settings))


@BOTH
def test_each_image_of_a_batch_gives_what_it_gives_alone(settings):
    batch, tokens = 4, 9
    blocks = blocks_of(rng_of(22), 2 * batch, tokens)
    together = segmented(settings, blocks, batch, tokens)
    for image in range(batch):
        single = segmented(settings, [block.rows([image, batch + image]) for block in blocks], 1, tokens)
        assert single.labels[0].equal(together.labels[image])
        assert single.foreground[0].equal(together.foreground[image])


CALLS = {
    # every arrangement: a list of calls; a call is a list of (prompt, first image, images)
    "conditional_first": [[("positive", 0, 3), ("negative", 0, 3)]],
    "two_calls": [[("negative", 0, 3)], [("positive", 0, 3)]],
    "two_calls_reversed": [[("positive", 0, 3)], [("negative", 0, 3)]],
    "image_by_image": [[("positive", i, 1)] for i in range(3)] + [[("negative", i, 1)] for i in range(3)],
    "last_image_first": [[("positive", i, 1), ("negative", i, 1)] for i in (2, 0, 1)],
    "uneven_split": [[("negative", 0, 2), ("positive", 0, 1)], [("positive", 1, 2), ("negative", 2, 1)]],
    "interleaved": [[(entry, i, 1) for i in range(3) for entry in ("negative", "positive")]],
}


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
@pytest.mark.parametrize("arrangement", CALLS)
@BOTH
def test_arrangement_of_rows_changes_nothing(settings, arrangement, backend):
    batch, tokens = 3, 8
    blocks = blocks_of(rng_of(23), 2 * batch, tokens)
    usual = segmented(settings, blocks, batch, tokens)
    first_row = {"negative": 0, "positive": batch}
    collector = Collector(settings, budget_mib=BUDGETS[backend])
    collector.begin(two_branches(batch, tokens)[0])
    for call in CALLS[arrangement]:
        index, rows = [], []
        for key, first, images in call:
            rows.append(Rows(key, slice(len(index), len(index) + images), first))
            index += range(first_row[key] + first, first_row[key] + first + images)
        feed(collector, [block.rows(index) for block in blocks], rows)
    assert same(gathered(collector, settings, LATENT), usual)


def test_layers_in_another_order_give_the_same_labels():
    blocks = blocks_of(rng_of(24), 2, 8)
    assert same(segmented(PAPER, blocks, 1, 8), segmented(PAPER, blocks[::-1], 1, 8))


def test_self_attention_pairs_with_the_cross_attention_of_its_own_block():
    """attn1, attn1, attn2, attn2: the names pair them up, not the order."""
    blocks = blocks_of(rng_of(25), 2, 8)
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 8)
    collector.begin(prompts)
    for block in blocks:
        collector.observe(self_call(block, rows))
    for block in reversed(blocks):
        collector.observe(cross_call(block, rows))
    assert same(gathered(collector, PAPER, LATENT), segmented(PAPER, blocks, 1, 8))


def test_begin_forgets_the_last_evaluation():
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 8)
    for seed in (26, 27):
        blocks = blocks_of(rng_of(seed), 2, 8)
        collector.begin(prompts)
        feed(collector, blocks, rows)
        assert same(gathered(collector, PAPER, LATENT), segmented(PAPER, blocks, 1, 8))


def test_scale_of_the_host_is_used():
    blocks = blocks_of(rng_of(28), 2, 8, [Grid(6, 7)])
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 8)
    collector.begin(prompts)
    (block,) = blocks
    collector.observe(self_call(block, rows, scale=1.0))
    collector.observe(cross_call(block, rows, scale=0.5))
    shrunk = replace_scale(block)
    assert same(gathered(collector, PAPER, LATENT), segmented(PAPER, [shrunk], 1, 8))


def replace_scale(block):
    """The block whose usual scale, 8^−½, does what 1.0 and 0.5 do."""
    return replace(block, q=block.q * 8**0.5, cross_q=block.cross_q * 8**0.5 * 0.5)
