"""Prompts of any length: repeats are folded, the STARTs of several chunks are one."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from cases import (
    AUTHORS,
    BUDGETS,
    LATENT,
    PAPER,
    SETTINGS,
    assert_segmented,
    blocks_of,
    feed,
    gathered,
    maps_of,
    rng_of,
    same,
    segmented,
    two_branches,
)

from scfg_core import Grid, Prompt
from scfg_core.collect.calls import Rows
from scfg_core.collect.collector import Collector

BOTH = pytest.mark.parametrize("settings", [PAPER, AUTHORS], ids=["paper", "authors"])


def repeated(block, times):
    return replace(block, cross_k=block.cross_k.repeat(1, 1, times, 1))


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
@pytest.mark.parametrize("tokens, times", [(77, 2), (154, 3), (5, 4)])
@BOTH
def test_repeated_tokens_are_folded(settings, tokens, times, backend):
    blocks = blocks_of(rng_of(29, tokens), 2, tokens)
    plain = segmented(settings, blocks, 1, tokens, budget_mib=BUDGETS[backend])
    assert same(
        segmented(settings, [repeated(block, times) for block in blocks], 1, tokens, budget_mib=BUDGETS[backend]),
        plain,
    )
    folded = maps_of([repeated(block, times) for block in blocks], 1, tokens)
    assert_segmented(plain, oracle.segment(folded, maps_of(blocks, 0, tokens), settings))


def test_entries_of_different_length_share_a_call_by_repeats():
    """154 positive and 231 negative tokens meet at 462, as a host pads them."""
    rng = rng_of(30)
    (negative,), (positive,) = blocks_of(rng, 1, 231, [Grid(5, 6)]), blocks_of(rng, 1, 154, [Grid(5, 6)])
    long_negative, long_positive = repeated(negative, 2), repeated(positive, 3)
    joined = [
        torch.cat([getattr(long_negative, part), getattr(long_positive, part)])
        for part in ("q", "k", "cross_q", "cross_k")
    ]
    starts = {"positive": (0, 77), "negative": (0, 77, 154)}
    prompts = {
        "positive": Prompt.plain("cond", 154, starts["positive"]),
        "negative": Prompt.plain("uncond", 231, starts["negative"]),
    }
    collector = Collector(PAPER)
    collector.begin(prompts)
    rows = [Rows("negative", slice(0, 1)), Rows("positive", slice(1, 2))]
    feed(collector, [type(positive)("block", Grid(5, 6), *joined)], rows)
    segmentation = gathered(collector, PAPER, LATENT)
    expected = oracle.segment(maps_of([positive], 0, 154), maps_of([negative], 0, 231), PAPER, (0, 77))
    assert not (set(segmentation.labels.unique().tolist()) & {77})
    assert np.array_equal(segmentation.labels[0].numpy()[~expected.tied], expected.labels[~expected.tied])
    foreground, _, _ = oracle.foreground_of(maps_of([negative], 0, 231), PAPER, starts["negative"])
    assert np.array_equal(segmentation.foreground[0].numpy().ravel(), foreground)


@pytest.mark.parametrize("name", ["paper", "authors", "argmax_foreground", "argmax_foreground_per_layer"])
@pytest.mark.parametrize("tokens, starts", [(231, (0, 77, 154)), (12, (2, 7)), (12, (5,)), (12, (0, 1))])
def test_starts_of_several_chunks_are_one(name, tokens, starts):
    settings = SETTINGS[name]
    blocks = blocks_of(rng_of(31, tokens), 2, tokens)
    segmentation = segmented(settings, blocks, 1, tokens, start_tokens=starts)
    expected = oracle.segment(maps_of(blocks, 1, tokens), maps_of(blocks, 0, tokens), settings, starts)
    assert_segmented(segmentation, expected)


def test_an_encoder_without_start_measures_against_all():
    blocks = blocks_of(rng_of(32), 2, 6)
    segmentation = segmented(PAPER, blocks, 1, 6, start_tokens=())
    assert segmentation.foreground.all() and not segmentation.has_foreground.any()
    assert_segmented(segmentation, oracle.segment(maps_of(blocks, 1, 6), maps_of(blocks, 0, 6), PAPER, ()))


def test_token_maps_hold_what_their_branch_needs():
    blocks = blocks_of(rng_of(33), 2, 6)
    for rule, columns in (("start_vs_rest", 2), ("argmax", 6)):
        collector = Collector(replace(PAPER, foreground_rule=rule))
        prompts, rows = two_branches(1, 6)
        collector.begin(prompts)
        feed(collector, blocks, rows)
        assert collector.token_maps("positive").values.shape == (1, 42, 6)
        assert collector.token_maps("negative").values.shape == (1, 42, columns)
