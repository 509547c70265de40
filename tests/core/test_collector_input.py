"""Calls that do not fit leave their layer out; a caller’s mistakes are errors."""

from dataclasses import replace

import oracle
import pytest
import torch
from cases import (
    PAPER,
    assert_tells,
    cross_call,
    feed,
    image_of,
    pair,
    rng_of,
    self_call,
    two,
    two_branches,
)

from scfg_core import (
    Area,
    EntryMaps,
    Grid,
    Prompt,
    ScfgError,
    ShapeError,
    TokenMaps,
    segment_entries,
)
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector


def skipped(call_of):
    """Whether a collector that is shown attn1 and attn2 of two blocks leaves the first of them out."""
    blocks = [pair(rng_of(105), name, Grid(3, 4), 2, 5) for name in ("changed", "plain")]
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 5)
    collector.begin(prompts)
    for call in call_of(blocks[0], rows):
        collector.observe(call)
    feed(collector, blocks[1:], rows)
    assert collector.layers_seen("positive") == collector.layers_seen("negative") == (1 if collector.skipped else 2)
    return collector.skipped == {("changed", "negative"), ("changed", "positive")}


def pooled(call):
    """The call with every second query: another node merges tokens."""
    return replace(call, q=call.q[:, :, ::2])


MISFITS = {
    "merged_queries_of_attn1": lambda block, rows: [pooled(self_call(block, rows)), cross_call(block, rows)],
    "merged_queries_of_attn2": lambda block, rows: [self_call(block, rows), pooled(cross_call(block, rows))],
    "another_grid": lambda block, rows: [
        replace(self_call(block, rows), grid=Grid(4, 4), layout=Layout.self_attention(Grid(4, 4)))
    ],
    "more_rows": lambda block, rows: [self_call(block, rows), self_call(block.rows([0, 1, 0]), rows)],
    "other_rows_of_keys": lambda block, rows: [replace(self_call(block, rows), k=block.k[:1])],
    "more_text_keys": lambda block, rows: [
        self_call(block, rows),
        replace(cross_call(block, rows), k=block.cross_k.repeat(1, 1, 2, 1)),
    ],
    "text_of_another_length": lambda block, rows: [
        self_call(block, rows),
        cross_call(replace(block, cross_k=block.cross_k[:, :, :3]), rows),
    ],
    "no_attn1": lambda block, rows: [cross_call(block, rows)],
    "joint_text_of_another_length": lambda block, rows: [joint_call(block, rows, 7, 12)],
    "joint_image_of_another_size": lambda block, rows: [joint_call(block, rows, 5, 14)],
}


def joint_call(block, rows, tokens, patches):
    k = torch.rand(2, 2, tokens + patches, 8)
    return LayerCall(block.name, block.q, k, rows, block.grid, Layout.joint(tokens, Grid(1, patches)))


@pytest.mark.parametrize("change", MISFITS.values(), ids=MISFITS)
def test_a_layer_whose_calls_do_not_fit_is_left_out_alone(change):
    assert skipped(change)


def test_a_layer_whose_calls_fit_is_not_left_out():
    assert not skipped(lambda block, rows: [self_call(block, rows), cross_call(block, rows)])


@pytest.mark.parametrize("order", [("positive", "negative"), ("negative", "positive")])
def test_a_prompt_whose_calls_fit_keeps_a_layer_that_the_other_prompt_leaves_out(order):
    """In whatever order the calls come: several devices run them at once."""
    block, collector = pair(rng_of(107), "block", Grid(3, 4), 1, 5), Collector(PAPER)
    prompts, _ = two_branches(1, 5)
    collector.begin(prompts)
    for key in order:
        rows = [Rows(key, slice(0, 1))]
        call = self_call(block, rows)
        collector.observe(pooled(call) if key == "negative" else call)
        collector.observe(cross_call(block, rows))
    assert (collector.layers_seen("positive"), collector.layers_seen("negative")) == (1, 0)


def test_a_layer_that_is_left_out_stays_so_until_the_next_evaluation():
    block, collector = pair(rng_of(106), "block", Grid(3, 4), 2, 5), Collector(PAPER)
    prompts, rows = two_branches(1, 5)
    collector.begin(prompts)
    collector.observe(pooled(self_call(block, rows)))
    feed(collector, [block], rows)
    assert collector.layers_seen("positive") == 0
    collector.begin(prompts)
    feed(collector, [block], rows)
    assert collector.layers_seen("positive") == 1


@pytest.mark.parametrize(
    "how, words",
    [
        ({"backend": "quick"}, ["quick", "triton", "pytorch"]),
        ({"budget_mib": 0.0}, ["0"]),
        ({"budget_mib": -1.0}, ["-1"]),
    ],
)
def test_collector_names_what_it_cannot_be(how, words):
    with pytest.raises(ScfgError) as error:
        Collector(PAPER, **how)
    assert_tells(error, *words)


def test_token_maps_of_an_entry_never_fed_are_an_error_of_the_caller():
    collector = Collector(PAPER)
    collector.begin({"positive": Prompt.plain("cond", 5)})
    with pytest.raises(ScfgError) as error:
        collector.token_maps("positive")
    assert_tells(error, "positive")


def entry_maps(columns=5, **where):
    return EntryMaps(TokenMaps(torch.rand(1, 12, columns), Grid(3, 4)), Prompt.plain("cond", columns), **where)


@pytest.mark.parametrize(
    "area", [Area(0, 0, 40, 8), Area(0, 30, 4, 4), Area(-1, 0, 4, 4), Area(0, 0, 0, 4), Area(0, 0, 4, -4)]
)
def test_area_outside_the_latent_is_refused(area):
    cond = [entry_maps(), entry_maps(area=area)]
    with pytest.raises(ScfgError) as error:
        segment_entries(cond, [entry_maps(2)], PAPER, Grid(32, 32))
    assert_tells(error, "32")


@pytest.mark.parametrize("shape", [(32,), (16, 32), (2, 32, 32), (1, 1, 32, 32)])
def test_weight_that_does_not_fit_the_latent_is_refused(shape):
    cond = [entry_maps(), entry_maps(weight=torch.ones(shape))]
    with pytest.raises(ShapeError) as error:
        segment_entries(cond, [entry_maps(2)], PAPER, Grid(32, 32))
    assert_tells(error, str(shape))


def test_maps_on_another_grid_without_an_area_are_refused():
    other = EntryMaps(TokenMaps(torch.rand(1, 6, 5), Grid(2, 3)), Prompt.plain("cond", 5))
    with pytest.raises(ShapeError) as error:
        segment_entries([entry_maps(), other], [entry_maps(2)], PAPER, Grid(32, 32))
    assert_tells(error, "2×3", "3×4")


def test_rows_of_an_entry_never_declared_are_refused():
    block = pair(rng_of(107), "block", Grid(3, 4), 1, 5)
    collector = Collector(PAPER)
    collector.begin({"positive": Prompt.plain("cond", 5)})
    with pytest.raises(ScfgError) as error:
        feed(collector, [block], [Rows("stranger", slice(0, 1))])
    assert_tells(error, "stranger", "positive")


def test_oracle_agrees_that_the_broken_cases_are_clean_otherwise():
    """The structured cases of this file are not made of ties."""
    cond, uncond = two(rng_of(106))
    expected = oracle.segment(image_of(cond, 0), image_of(uncond, 0), PAPER)
    assert expected.tied.mean() < 0.05 and expected.has_foreground
