"""Small blocks are computed together; how many, and in which order they come, changes nothing but the launches."""

from dataclasses import replace

import pytest
import torch
from cases import AUTHORS, PAPER, SETTINGS, feed, gathered, pair, rng_of, two_branches

import scfg_core.collect.operators
from scfg_core import Grid, Prompt
from scfg_core.collect.blocks import BLOCK_PART, WAITING_PART
from scfg_core.collect.budget import MIB, MemoryBudget
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector

GRIDS = [Grid(5, 4), Grid(3, 2), Grid(5, 4), Grid(5, 4), Grid(3, 2)]
ROOM = MemoryBudget(64 * MIB, MIB)


def blocks_of(images, tokens=6):
    rng = rng_of(300, images)
    return [pair(rng, f"block{i}", grid, 2 * images, tokens) for i, grid in enumerate(GRIDS)]


def collected(blocks, images, settings=PAPER, apart=False, rows=None):
    """The collector after all blocks; apart: maps are asked for after each, so that none waits for another."""
    prompts, parts = two_branches(images, 6)
    collector = Collector(settings, budget=ROOM)
    collector.begin(prompts)
    for block in blocks:
        feed(collector, [block], parts if rows is None else rows)
        if apart:
            collector.layers_seen("positive")
    return collector


@pytest.mark.parametrize("name", ["paper", "authors", "uneven_powers", "no_self_attention"])
@pytest.mark.parametrize("images", [1, 3])
def test_blocks_that_wait_give_what_each_gives_alone(name, images):
    settings, blocks = SETTINGS[name], blocks_of(images)
    together, apart = (collected(blocks, images, settings, apart) for apart in (False, True))
    for prompt in ("positive", "negative"):
        torch.testing.assert_close(
            together.token_maps(prompt).values, apart.token_maps(prompt).values, rtol=2e-6, atol=1e-7
        )
        assert together.layers_seen(prompt) == apart.layers_seen(prompt) == len(GRIDS)
    assert together.grids_seen() == apart.grids_seen() == (Grid(5, 4), Grid(3, 2))
    labels = [gathered(one, settings, Grid(10, 8)).labels for one in (together, apart)]
    assert labels[0].equal(labels[1])


def passes(monkeypatch):
    """Images of every pass over self-attentions."""
    real, images = scfg_core.collect.operators.head_mean_attention, []

    def head_mean_attention(q, k, **how):
        images.append(q.shape[0])
        return real(q, k, **how)

    monkeypatch.setattr(scfg_core.collect.operators, "head_mean_attention", head_mean_attention)
    return images


def test_blocks_of_one_size_share_a_pass(monkeypatch):
    images = passes(monkeypatch)
    collected(blocks_of(2), 2).layers_seen("positive")
    assert images == [3 * 4, 2 * 4]


def test_both_branches_share_one_pass_over_their_self_attention(monkeypatch):
    """Their columns differ in number; S does not depend on them."""
    images = passes(monkeypatch)
    collected(blocks_of(2)[:1], 2).layers_seen("positive")
    assert images == [4]


def test_a_prompt_that_runs_by_itself_shares_passes_too(monkeypatch):
    images, blocks = passes(monkeypatch), blocks_of(1)
    collector = Collector(PAPER, budget=ROOM)
    collector.begin(two_branches(1, 6)[0])
    for prompt, row in (("negative", 0), ("positive", 1)):
        for block in blocks:
            feed(collector, [block.rows(slice(row, row + 1))], [Rows(prompt, slice(0, 1))])
    expected = collected(blocks, 1)
    for prompt in ("positive", "negative"):
        torch.testing.assert_close(collector.token_maps(prompt).values, expected.token_maps(prompt).values)
    assert images[:4] == [3, 2, 3, 2]


def test_what_is_large_does_not_wait(monkeypatch):
    images = passes(monkeypatch)
    block = blocks_of(1)[0]
    size = sum(side.nbytes for side in (block.q, block.k, block.cross_q, block.cross_k))
    prompts, rows = two_branches(1, 6)
    for limit, expected in ((BLOCK_PART * size, []), (BLOCK_PART * size - 1, [2])):
        images.clear()
        collector = Collector(PAPER, budget=MemoryBudget(limit, limit))
        collector.begin(prompts)
        feed(collector, [block], rows)
        assert images == expected


def test_many_blocks_do_not_wait_without_end(monkeypatch):
    images = passes(monkeypatch)
    block = blocks_of(1)[0]
    size = sum(side.nbytes for side in (block.q, block.k, block.cross_q, block.cross_k))
    most = BLOCK_PART // WAITING_PART
    prompts, rows = two_branches(1, 6)
    collector = Collector(PAPER, budget=MemoryBudget(BLOCK_PART * size, MIB))
    collector.begin(prompts)
    feed(collector, [block] * most, rows)
    assert images == []
    feed(collector, [block], rows)
    assert images == [2 * (most + 1)]


def test_an_evaluation_that_nobody_asks_about_computes_nothing(monkeypatch):
    images = passes(monkeypatch)
    collector = collected(blocks_of(1), 1)
    collector.begin({})
    collector.grids_seen()
    assert images == []


@pytest.mark.parametrize("settings", [PAPER, AUTHORS], ids=["paper", "authors"])
def test_text_keys_that_some_blocks_leave_out_stay_out_of_them(settings):
    """A mask of one layer is no mask of the others."""
    rng = rng_of(301)
    blocks = [pair(rng, f"block{i}", Grid(4, 3), 1, 6) for i in range(3)]
    kept = torch.tensor([[True, True, True, False, True, True]])
    prompts = {"positive": Prompt.plain("cond", 6)}
    rows = [Rows("positive", slice(0, 1))]
    found = []
    for apart in (False, True):
        collector = Collector(settings, budget=ROOM)
        collector.begin(prompts)
        for number, block in enumerate(blocks):
            grid = Grid(4, 3)
            own = LayerCall(block.name, block.q, block.k, rows, grid, Layout.self_attention(grid))
            cross = LayerCall(block.name, block.cross_q, block.cross_k, rows, grid, Layout.cross_attention(6))
            collector.observe(own)
            collector.observe(replace(cross, kept=kept if number else None))
            if apart:
                collector.layers_seen("positive")
        found.append(collector.token_maps("positive").values)
    torch.testing.assert_close(*found)


def test_blocks_of_different_scales_do_not_share_a_pass(monkeypatch):
    images, grid, rows = passes(monkeypatch), Grid(4, 3), [Rows("positive", slice(0, 1))]
    collector = Collector(PAPER, budget=ROOM)
    collector.begin({"positive": Prompt.plain("cond", 6)})
    for scale, block in zip(
        (0.1, 0.3), [pair(rng_of(302), f"block{i}", grid, 1, 6) for i in range(2)], strict=True
    ):
        own = LayerCall(block.name, block.q, block.k, rows, grid, Layout.self_attention(grid), scale)
        cross = LayerCall(block.name, block.cross_q, block.cross_k, rows, grid, Layout.cross_attention(6), scale)
        collector.observe(own)
        collector.observe(cross)
    assert collector.layers_seen("positive") == 2 and images == [1, 1]


@pytest.mark.parametrize("blocks", [1, 3])
def test_rows_in_any_order_keep_their_own_keys(blocks):
    """A mask of keys follows its rows, whichever prompt the host names first."""
    grid, prompts = Grid(4, 3), two_branches(1, 6)[0]
    kept = torch.tensor([[True] * 6, [True, True, False, True, False, True]])
    parts, found = [Rows("negative", slice(0, 1)), Rows("positive", slice(1, 2))], []
    for rows in (parts, parts[::-1]):
        collector = Collector(PAPER, budget=ROOM)
        collector.begin(prompts)
        rng = rng_of(303)
        for block in [pair(rng, f"block{i}", grid, 2, 6) for i in range(blocks)]:
            own = LayerCall(block.name, block.q, block.k, rows, grid, Layout.self_attention(grid))
            cross = LayerCall(block.name, block.cross_q, block.cross_k, rows, grid, Layout.cross_attention(6))
            collector.observe(own)
            collector.observe(replace(cross, kept=kept))
        found.append({prompt: collector.token_maps(prompt).values for prompt in prompts})
    assert found[0]["positive"][..., 2].abs().max() == 0 != found[0]["positive"][..., 3].abs().max()
    torch.testing.assert_close(found[0], found[1])
