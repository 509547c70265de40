"""Results under ComfyUI's caching: always the run that made the latent, never an older one."""

import numpy as np
import pytest

from .graphs import demo, guidance, node, sampled
from .server import Server

SCENE = "a red boat and a blue cat"


def viewed(prompt, sampler="s", guide="5", name="view", **segmentation):
    """S-CFG Result and Segmentation of a sampler's run, as nodes `name`_result and `name`."""
    shown = {"show": "one step", "step": -1, "batch_index": 0, "under": "nothing"} | segmentation
    return prompt | {
        f"{name}_result": node("SCFGResult", trace=[guide, 1], latent=[sampler, 0]),
        name: node("SCFGSegmentation", result=[f"{name}_result", 0], **shown),
    }


def graph(seed=1, **segmentation):
    return viewed(sampled(demo(SCENE) | {"5": guidance()}, "s", ["5", 0], seed=seed, steps=3), **segmentation)


def ran(server, prompt):
    run = server.run(prompt)
    assert run.error is None, run.error
    return run


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def test_a_change_of_the_view_alone_runs_only_the_view(server):
    ran(server, graph(seed=11))
    again = ran(server, graph(seed=11, step=1))
    assert again.executed == ["view"]


def test_a_new_seed_shows_the_new_run(server):
    first = ran(server, graph(seed=12))
    second = ran(server, graph(seed=13))
    assert "5" not in second.executed  # the same patcher, so the same trace
    assert not np.array_equal(first.pictures["view"][0], second.pictures["view"][0])
    back = ran(server, graph(seed=12))
    assert np.array_equal(first.pictures["view"][0], back.pictures["view"][0])


def test_two_samplers_on_one_model_each_have_their_own_result(server):
    prompt = demo(SCENE) | {"5": guidance()}
    prompt = sampled(prompt, "a", ["5", 0], seed=21, steps=3)
    prompt = sampled(prompt, "b", ["5", 0], seed=22, steps=3)
    both = ran(server, viewed(viewed(prompt, "a", name="view_a"), "b", name="view_b"))
    alone = ran(server, viewed(sampled(demo(SCENE) | {"5": guidance()}, "b", ["5", 0], seed=22, steps=3), "b"))
    assert not np.array_equal(both.pictures["view_a"][0], both.pictures["view_b"][0])
    assert np.array_equal(both.pictures["view_b"][0], alone.pictures["view"][0])


def test_a_latent_that_no_run_made_is_an_error(server):
    prompt = graph(seed=31)
    prompt["view_result"]["inputs"]["latent"] = ["4", 0]
    assert "got another latent" in (server.run(prompt).error or "")


def test_a_result_without_its_latent_is_not_run(server):
    prompt = graph(seed=32)
    del prompt["view_result"]["inputs"]["latent"]
    run = server.run(prompt)
    assert "s" in run.executed and "view" not in run.executed


@pytest.mark.parametrize("arguments", [("--cache-none",), ("--cache-lru", "1")])
def test_a_host_that_keeps_little_or_nothing_shows_the_right_run(arguments):
    with Server(*arguments) as server:
        first = ran(server, graph(seed=41))
        second = ran(server, graph(seed=42))
        back = ran(server, graph(seed=41))
    assert not np.array_equal(first.pictures["view"][0], second.pictures["view"][0])
    assert np.array_equal(first.pictures["view"][0], back.pictures["view"][0])
