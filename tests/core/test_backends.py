"""S in memory or not, one result; and the memory budget that chooses between them."""

import numpy as np
import oracle
import pytest
import torch
from cases import AUTHORS, BUDGETS, PAPER, SETTINGS, array, feed, gathered, maps_of, pair, rng_of, two_branches

import scfg_core.collect.backend
import scfg_core.collect.collector
import scfg_core.collect.operators
from benchmarks.memory import MIB, LiveBytes
from scfg_core import Grid, Prompt
from scfg_core.collect.backend import PyTorch
from scfg_core.collect.budget import CollectorOutOfMemory, MemoryBudget
from scfg_core.collect.calls import Rows
from scfg_core.collect.collector import Collector


@pytest.mark.parametrize("budget", [256.0, 0.05, 1e-5])
@pytest.mark.parametrize("name", ["paper", "authors", "uneven_powers", "no_self_attention"])
@pytest.mark.parametrize("tokens", [5, 77])
def test_every_budget_gives_the_float64_token_maps(name, tokens, budget):
    """1e-6 of the largest value, fp32 against float64; a budget too small for S changes nothing but the way."""
    settings, rng = SETTINGS[name], rng_of(10, tokens)
    blocks = [
        pair(rng, f"block{i}", grid, 4, tokens, heads=3, width=8)
        for i, grid in enumerate([Grid(7, 11), Grid(4, 6), Grid(7, 11)])
    ]
    prompts, rows = two_branches(2, tokens)
    collector = Collector(settings, budget_mib=budget)
    collector.begin(prompts)
    feed(collector, blocks, rows)
    positive, negative = collector.token_maps("positive"), collector.token_maps("negative")
    for image in range(2):
        for maps, row, columns, epsilon in (
            (positive, 2 + image, lambda cross: cross, 1e-8),
            (negative, image, lambda cross: oracle.start_and_rest(cross, (0,)), 0.0),
        ):
            expected, _ = oracle.fuse(maps_of(blocks, row, tokens), settings, columns, epsilon)
            if settings.smooth_maps and not maps.renormalised:
                continue
            error = np.abs(array(maps.values[image]) - expected).max()
            assert error <= 1e-6 * np.abs(expected).max()
    assert positive.grid == negative.grid == Grid(7, 11)
    assert positive.renormalised == negative.renormalised == (settings.renormalise == "per_layer")


@pytest.mark.parametrize("backend", BUDGETS)
@pytest.mark.parametrize("loudness", [20.0, 400.0])
def test_scores_beyond_the_range_of_exp_are_no_trouble(backend, loudness):
    """Every patch attends to one key alone, so rounding of the score is all the error there is."""
    rng, tokens = rng_of(18), 6
    block = pair(rng, "block", Grid(5, 6), 2, tokens, heads=2, width=8)
    places = torch.nn.functional.one_hot(torch.from_numpy(rng.integers(0, 30, 30)), 30).float()
    words = torch.nn.functional.one_hot(torch.from_numpy(rng.integers(0, tokens, 30)), tokens).float()
    block.q, block.k = (x.expand(2, 2, -1, -1) for x in (loudness * places, loudness * torch.eye(30)))
    block.cross_q, block.cross_k = (
        x.expand(2, 2, -1, -1) for x in (loudness * words, loudness * torch.eye(tokens))
    )
    collector = Collector(PAPER, budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(1, tokens)
    collector.begin(prompts)
    feed(collector, [block], rows)
    expected, _ = oracle.fuse(maps_of([block], 1, tokens), PAPER, lambda cross: cross, 1e-8)
    np.testing.assert_allclose(array(collector.token_maps("positive").values[0]), expected, atol=1e-6)


@pytest.mark.parametrize("settings", [PAPER, AUTHORS], ids=["paper", "authors"])
def test_all_budgets_give_the_same_labels(settings):
    rng, tokens, batch = rng_of(11), 20, 2
    blocks = [pair(rng, f"block{i}", grid, 2 * batch, tokens) for i, grid in enumerate([Grid(16, 12), Grid(8, 6)])]
    seen = []
    for budget in (None, 256.0, 1.0, 0.02, 1e-5):
        collector = Collector(settings, budget_mib=budget)
        prompts, rows = two_branches(batch, tokens)
        collector.begin(prompts)
        feed(collector, blocks, rows)
        seen.append(gathered(collector, settings, Grid(32, 24)))
    assert all(one.labels.equal(seen[0].labels) for one in seen)
    assert all(one.foreground.equal(seen[0].foreground) for one in seen)


def memory_of(budget, settings=PAPER, layers=2, images=1):
    """What passes while `layers` blocks are fed; S of one row is 4 MiB, the scores of its four heads are 16."""
    rows = 2 * images
    blocks = [pair(rng_of(15), f"block{i}", Grid(32, 32), rows, 8, heads=4, width=8) for i in range(layers)]
    prompts, parts = two_branches(images, 8)
    collector = Collector(settings, budget_mib=budget)
    collector.begin(prompts)
    with LiveBytes() as memory:
        feed(collector, blocks, parts)
        kept = [collector.token_maps(name).values for name in prompts]
    return memory, sum(one.nbytes for one in kept)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("budget", [2.0, 3.0, 5.0, 8.0, 12.0, 16.0])
def test_budget_bounds_the_live_memory_of_any_batch(budget, images):
    """Token maps and the fp32 keys of one image come on top."""
    memory, kept = memory_of(budget, images=images)
    assert memory.peak <= (budget + 0.5) * MIB + 3 * kept


@pytest.mark.parametrize("budget", [2.0, 4.0])
def test_without_room_for_one_map_a_block_and_some_columns_are_held(budget):
    """A block of scores, ¼ of the budget, what it becomes, and O(n·L) columns; S itself would be 4 MiB."""
    memory, _ = memory_of(budget)
    columns, rows = 1024 * 8 * 4, 128 * 1024 * 4
    assert memory.peak <= budget / 4 * MIB + 3 * rows + 24 * columns


@pytest.mark.parametrize(
    "settings", [PAPER, AUTHORS, SETTINGS["no_self_attention"]], ids=["paper", "authors", "none"]
)
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
def test_nothing_of_size_n_squared_outlives_its_layer(budget, settings):
    """Live afterwards: token maps, those of each layer for the authors' order."""
    memory, kept = memory_of(budget, settings)
    assert memory.live <= 4 * kept + MIB // 8


@pytest.mark.parametrize("settings", [PAPER, SETTINGS["no_self_attention"]], ids=["paper", "none"])
@pytest.mark.parametrize("budget", [32.0, 1e-5])
def test_memory_does_not_grow_with_the_number_of_layers(budget, settings):
    """Once what waits is as much as may wait: 8 blocks without S, none with it."""
    ten, twenty = (memory_of(budget, settings, layers)[0].peak for layers in (10, 20))
    assert twenty <= ten + MIB // 8


@pytest.mark.parametrize("settings", [PAPER, SETTINGS["no_self_attention"]], ids=["paper", "none"])
def test_scores_of_all_heads_are_never_held_at_once(settings):
    memory, _ = memory_of(32.0, settings)
    assert memory.largest <= 8 * MIB


def test_calls_of_one_prompt_each_give_the_same_labels():
    """Batch of two entries of different length: the labels do not depend on how they were computed."""
    rng, labels = rng_of(16), []
    block, longer = pair(rng, "block", Grid(6, 7), 1, 5), pair(rng, "block", Grid(6, 7), 1, 9)
    for budget in BUDGETS.values():
        collector = Collector(PAPER, budget_mib=budget)
        collector.begin({"positive": Prompt.plain("cond", 5), "negative": Prompt.plain("uncond", 9)})
        feed(collector, [block], [Rows("positive", slice(0, 1))])
        feed(collector, [longer], [Rows("negative", slice(0, 1))])
        labels.append(gathered(collector, PAPER, Grid(12, 14)).labels)
    assert all(one.equal(labels[0]) for one in labels)


def exhausted_above(largest, monkeypatch):
    """Blocks of scores of more than `largest` bytes, or maps of n² numbers where it is 0, find no memory."""
    real = scfg_core.collect.operators.head_mean_attention

    def head_mean_attention(q, k, *, block, **how):
        if block > largest if largest else k.shape[2] == q.shape[2]:
            raise torch.OutOfMemoryError("out of memory")
        return real(q, k, block=block, **how)

    monkeypatch.setattr(scfg_core.collect.operators, "head_mean_attention", head_mean_attention)
    monkeypatch.setattr(scfg_core.collect.backend, "head_mean_attention", head_mean_attention)


@pytest.mark.parametrize("largest", [MIB, 0], ids=["large_blocks_fail", "stored_maps_fail"])
def test_running_out_of_memory_changes_the_way_and_not_the_labels(largest, monkeypatch):
    rng, tokens, seen = rng_of(19), 6, []
    blocks = [pair(rng, f"block{i}", Grid(9, 10), 2, tokens) for i in range(2)]
    for failing in (False, True):
        if failing:
            exhausted_above(largest, monkeypatch)
        collector = Collector(PAPER)
        prompts, rows = two_branches(1, tokens)
        collector.begin(prompts)
        feed(collector, blocks, rows)
        seen.append(gathered(collector, PAPER, Grid(18, 20)))
    assert seen[0].labels.equal(seen[1].labels) and seen[0].foreground.equal(seen[1].foreground)


def test_running_out_of_memory_with_every_backend_is_told_apart(monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(scfg_core.collect.backend, "head_mean_attention", exhausted)
    block = pair(rng_of(20), "block", Grid(3, 4), 2, 5)
    prompts, rows = two_branches(1, 5)
    collector = Collector(PAPER)
    collector.begin(prompts)
    with pytest.raises(CollectorOutOfMemory):
        feed(collector, [block], rows)
        collector.token_maps("positive")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
        RuntimeError("Could not allocate tensor with 9 bytes. There is not enough GPU video memory available!"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("Invalid buffer size: 24.00 GiB"),
        MemoryError(),
    ],
    ids=["Linux", "Windows", "DirectML", "cuBLAS", "MPS", "Metal", "Python"],
)
def test_lack_of_memory_is_known_in_every_devices_words(error):
    calls = []

    def compute():
        calls.append(None)
        if len(calls) < 3:
            raise error
        return "done"

    assert MemoryBudget.for_device("cpu", None).run(compute) == "done"


def test_other_errors_of_the_device_are_not_taken_for_lack_of_memory(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(scfg_core.collect.backend, "head_mean_attention", broken)
    block = pair(rng_of(20), "block", Grid(3, 4), 2, 5)
    prompts, rows = two_branches(1, 5)
    collector = Collector(PAPER)
    collector.begin(prompts)
    with pytest.raises(RuntimeError, match="device-side assert"):
        feed(collector, [block], rows)
        collector.token_maps("positive")


class Pretended(PyTorch):
    """Computes as PyTorch does, under the other name."""

    name = "triton"


@pytest.mark.parametrize("fails", [False, True])
def test_the_maps_are_by_triton_if_any_layer_is_and_by_pytorch_once_it_failed(monkeypatch, fails):
    def cross_maps(self, *given):
        if fails:
            raise RuntimeError("illegal instruction")
        return PyTorch.cross_maps(self, *given)

    monkeypatch.setattr(Pretended, "cross_maps", cross_maps)
    monkeypatch.setattr(scfg_core.collect.backend, "_distrusted", False)
    chosen = {12: Pretended(), 6: PyTorch()}
    monkeypatch.setattr(scfg_core.collect.collector, "backend_for", lambda q, budget: chosen[q.shape[2]])
    rng = rng_of(21)
    blocks = [pair(rng, name, grid, 2, 5) for name, grid in (("large", Grid(3, 4)), ("small", Grid(2, 3)))]
    prompts, rows = two_branches(1, 5)
    collector = Collector(PAPER)
    assert collector.backend is None
    for _ in range(2):
        collector.begin(prompts)
        assert collector.backend is None
        feed(collector, blocks, rows)
        collector.token_maps("positive")
        assert collector.backend == ("pytorch" if fails else "triton")
