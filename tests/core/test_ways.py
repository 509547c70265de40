"""Three ways of applying S, one result; and the memory budget that chooses between them."""

import numpy as np
import oracle
import pytest
import torch
from cases import AUTHORS, PAPER, SETTINGS, array, gathered, maps_of, pair, rng_of, two_branches

import scfg_core.ways
from benchmarks.memory import MIB, LiveBytes
from scfg_core import Grid
from scfg_core.collector import Collector, CollectorOutOfMemory, Entry, Rows
from scfg_core.relief import Relief

WAYS = ["stored", "fused", "matrix_free"]


def feed_way(collector, blocks, rows, way):
    """Feed as a host does: one that lets `fused` have the layer's output, or one that only watches."""
    for block in blocks:
        if way == "fused":
            collector.attend_self(block.name, block.q, block.k, block.k, rows, block.grid)
        else:
            collector.observe_self(block.name, block.q, block.k, rows, block.grid)
        collector.observe_cross(block.name, block.cross_q, block.cross_k, rows, block.grid)


@pytest.mark.parametrize("budget", [256.0, 0.05])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["paper", "authors", "uneven_powers", "no_self_attention"])
@pytest.mark.parametrize("tokens", [5, 77])
def test_way_gives_the_float64_token_maps(name, way, tokens, budget):
    """1e-6 of the largest value, fp32 against float64; a budget too small for S changes nothing but the way."""
    settings, rng = SETTINGS[name], rng_of(10, tokens)
    blocks = [
        pair(rng, f"block{i}", grid, 4, tokens, heads=3, width=8)
        for i, grid in enumerate([Grid(7, 11), Grid(4, 6), Grid(7, 11)])
    ]
    entries, rows = two_branches(2, tokens)
    collector = Collector(settings, way=way, budget_mib=budget)
    collector.begin(entries)
    feed_way(collector, blocks, rows, way)
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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loudness", [20.0, 400.0])
def test_scores_beyond_the_range_of_exp_are_no_trouble(way, loudness):
    """Every patch attends to one key alone, so rounding of the score is all the error there is."""
    rng, tokens = rng_of(18), 6
    block = pair(rng, "block", Grid(5, 6), 2, tokens, heads=2, width=8)
    places = torch.nn.functional.one_hot(torch.from_numpy(rng.integers(0, 30, 30)), 30).float()
    words = torch.nn.functional.one_hot(torch.from_numpy(rng.integers(0, tokens, 30)), tokens).float()
    block.q, block.k = (x.expand(2, 2, -1, -1) for x in (loudness * places, loudness * torch.eye(30)))
    block.cross_q, block.cross_k = (
        x.expand(2, 2, -1, -1) for x in (loudness * words, loudness * torch.eye(tokens))
    )
    collector = Collector(PAPER, way=way)
    entries, rows = two_branches(1, tokens)
    collector.begin(entries)
    feed_way(collector, [block], rows, way)
    expected, _ = oracle.fuse(maps_of([block], 1, tokens), PAPER, lambda cross: cross, 1e-8)
    np.testing.assert_allclose(array(collector.token_maps("positive").values[0]), expected, atol=1e-6)


@pytest.mark.parametrize("settings", [PAPER, AUTHORS], ids=["paper", "authors"])
def test_all_ways_and_budgets_give_the_same_labels(settings):
    rng, tokens, batch = rng_of(11), 20, 2
    blocks = [pair(rng, f"block{i}", grid, 2 * batch, tokens) for i, grid in enumerate([Grid(16, 12), Grid(8, 6)])]
    seen = []
    for way in [*WAYS, "auto"]:
        for budget in (256.0, 1.0, 0.02):
            collector = Collector(settings, way=way, budget_mib=budget)
            entries, rows = two_branches(batch, tokens)
            collector.begin(entries)
            feed_way(collector, blocks, rows, way)
            seen.append(gathered(collector, settings, Grid(32, 24)))
    assert all(one.labels.equal(seen[0].labels) for one in seen)
    assert all(one.foreground.equal(seen[0].foreground) for one in seen)


@pytest.mark.parametrize("scale", [None, 0.1])
@pytest.mark.parametrize("budget", [256.0, 0.05])
@pytest.mark.parametrize("way", [*WAYS, "auto"])
def test_attend_self_returns_the_layers_own_attention(way, budget, scale):
    rng, tokens = rng_of(12), 6
    block = pair(rng, "block", Grid(9, 10), 4, tokens, heads=2, width=16)
    value = torch.from_numpy(rng.standard_normal((4, 2, 90, 16))).float()
    entries, rows = two_branches(2, tokens)
    collector = Collector(PAPER, way=way, budget_mib=budget)
    collector.begin(entries)
    out = collector.attend_self("block", block.q, block.k, value, rows, block.grid, scale=scale)
    assert out.shape == value.shape and out.dtype == value.dtype
    for row in range(4):
        for head in range(2):
            weights = oracle.softmax(
                array(block.q[row, head]) @ array(block.k[row, head]).T * (16**-0.5 if scale is None else scale)
            )
            np.testing.assert_allclose(array(out[row, head]), weights @ array(value[row, head]), atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attend_self_keeps_the_hosts_dtype(dtype):
    block = pair(rng_of(13), "block", Grid(5, 5), 2, 4)
    entries, rows = two_branches(1, 4)
    collector = Collector(PAPER, way="fused")
    collector.begin(entries)
    q, k, v = (x.to(dtype) for x in (block.q, block.k, block.k))
    out = collector.attend_self("block", q, k, v, rows, block.grid)
    expected = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_fused_output_is_as_near_to_float64_as_the_hosts_attention(dtype):
    grid, attention = Grid(24, 24), torch.nn.functional.scaled_dot_product_attention
    block = pair(rng_of(21), "block", grid, 2, 4, heads=4, width=32)
    q, k, v = (x.to(dtype) for x in (block.q, block.k, block.k.flip(2)))
    entries, rows = two_branches(1, 4)
    collector = Collector(PAPER, way="fused")
    collector.begin(entries)
    expected = attention(q.double(), k.double(), v.double())
    ours, theirs = collector.attend_self("block", q, k, v, rows, grid), attention(q, k, v)
    assert (ours - expected).abs().max() <= 2 * (theirs - expected).abs().max()


def test_attend_self_serves_rows_that_nobody_asked_for():
    """A row without an entry (another hook's) still gets its attention."""
    block = pair(rng_of(14), "block", Grid(5, 5), 5, 4)
    entries, rows = two_branches(2, 4)
    collector = Collector(PAPER, way="fused")
    collector.begin(entries)
    out = collector.attend_self("block", block.q, block.k, block.k, rows, block.grid)
    expected = torch.nn.functional.scaled_dot_product_attention(block.q, block.k, block.k)
    torch.testing.assert_close(out, expected, atol=2e-6, rtol=1e-5)


def memory_of(budget, way, settings=PAPER, layers=2):
    """What passes while `layers` blocks of 1 + 1 rows are fed; S of one row is 4 MiB, four heads' scores are 16."""
    blocks = [pair(rng_of(15), f"block{i}", Grid(32, 32), 2, 8, heads=4, width=8) for i in range(layers)]
    entries, rows = two_branches(1, 8)
    collector = Collector(settings, way=way.partition("+")[0], budget_mib=budget)
    collector.begin(entries)
    with LiveBytes() as memory:
        feed_way(collector, blocks, rows, "fused" if "fused" in way else way)
        kept = [collector.token_maps(name).values for name in entries]
    return memory, sum(one.nbytes for one in kept)


@pytest.mark.parametrize("way", ["auto", "auto+fused"])
@pytest.mark.parametrize("budget", [1.0, 3.0, 5.0, 8.0, 12.0, 16.0])
def test_budget_bounds_the_live_memory(budget, way):
    """Token maps and the layer's output (¼ MiB) come on top."""
    memory, _ = memory_of(budget, way)
    assert memory.peak <= (budget + 0.75) * MIB


@pytest.mark.parametrize("way", ["stored", "fused", "matrix_free"])
def test_forced_way_stays_inside_a_budget_that_has_room_for_it(way):
    memory, _ = memory_of(16.0, way)
    assert memory.peak <= 16.75 * MIB


@pytest.mark.parametrize("budget", [2.0, 4.0, 8.0])
def test_matrix_free_holds_two_blocks_and_some_columns(budget):
    """A block of one head and their sum, ⅛ of the budget each, and O(n·L) columns; S itself would be 4 MiB."""
    memory, _ = memory_of(budget, "matrix_free")
    columns = 1024 * 8 * 4
    assert memory.peak <= 2 * budget / 8 * MIB + 24 * columns


@pytest.mark.parametrize(
    "settings", [PAPER, AUTHORS, SETTINGS["no_self_attention"]], ids=["paper", "authors", "none"]
)
@pytest.mark.parametrize("way", ["auto", *WAYS])
def test_nothing_of_size_n_squared_outlives_its_layer(way, settings):
    """Live afterwards: token maps, those of each layer for the authors' order."""
    memory, kept = memory_of(256.0, way, settings)
    assert memory.live <= 4 * kept + MIB // 8


@pytest.mark.parametrize("settings", [PAPER, SETTINGS["no_self_attention"]], ids=["paper", "none"])
@pytest.mark.parametrize("way", WAYS)
def test_memory_does_not_grow_with_the_number_of_layers(way, settings):
    two, five = (memory_of(32.0, way, settings, layers)[0].peak for layers in (2, 5))
    assert five <= two + MIB // 8


@pytest.mark.parametrize("settings", [PAPER, SETTINGS["no_self_attention"]], ids=["paper", "none"])
def test_scores_of_all_heads_are_never_held_at_once(settings):
    memory, _ = memory_of(32.0, "auto", settings)
    assert memory.largest <= 8 * MIB


def test_way_is_free_where_it_cannot_matter():
    """Batch of two entries of different length: the labels do not depend on how they were computed."""
    rng, labels = rng_of(16), []
    block, longer = pair(rng, "block", Grid(6, 7), 1, 5), pair(rng, "block", Grid(6, 7), 1, 9)
    for way in [*WAYS, "auto"]:
        collector = Collector(PAPER, way=way)
        collector.begin({"positive": Entry("cond", 5), "negative": Entry("uncond", 9)})
        feed_way(collector, [block], [Rows("positive", slice(0, 1))], way)
        feed_way(collector, [longer], [Rows("negative", slice(0, 1))], way)
        labels.append(gathered(collector, PAPER, Grid(12, 14)).labels)
    assert all(one.equal(labels[0]) for one in labels)


def exhausted_above(largest, monkeypatch):
    """Blocks of scores of more than `largest` MiB, or maps of n² numbers where it is 0, find no memory."""
    real = scfg_core.ways.head_mean_attention

    def head_mean_attention(q, k, *, block_mib, **how):
        if block_mib > largest if largest else k.shape[2] == q.shape[2]:
            raise torch.OutOfMemoryError("out of memory")
        return real(q, k, block_mib=block_mib, **how)

    monkeypatch.setattr(scfg_core.ways, "head_mean_attention", head_mean_attention)


@pytest.mark.parametrize("way", ["auto", "stored", "fused"])
@pytest.mark.parametrize("largest", [1.0, 0.0], ids=["large_blocks_fail", "stored_maps_fail"])
def test_running_out_of_memory_changes_the_way_and_not_the_labels(largest, way, monkeypatch):
    rng, tokens, seen = rng_of(19), 6, []
    blocks = [pair(rng, f"block{i}", Grid(9, 10), 2, tokens) for i in range(2)]
    for failing in (False, True):
        if failing:
            exhausted_above(largest, monkeypatch)
        collector = Collector(PAPER, way=way)
        entries, rows = two_branches(1, tokens)
        collector.begin(entries)
        feed_way(collector, blocks, rows, way)
        seen.append(gathered(collector, PAPER, Grid(18, 20)))
    assert seen[0].labels.equal(seen[1].labels) and seen[0].foreground.equal(seen[1].foreground)


def test_running_out_of_memory_in_every_way_is_told_apart(monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(scfg_core.ways, "head_mean_attention", exhausted)
    block = pair(rng_of(20), "block", Grid(3, 4), 2, 5)
    entries, rows = two_branches(1, 5)
    collector = Collector(PAPER)
    collector.begin(entries)
    with pytest.raises(CollectorOutOfMemory):
        feed_way(collector, [block], rows, "auto")


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

    assert Relief().run(compute) == "done"


def test_other_errors_of_the_device_are_not_taken_for_lack_of_memory(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(scfg_core.ways, "head_mean_attention", broken)
    block = pair(rng_of(20), "block", Grid(3, 4), 2, 5)
    entries, rows = two_branches(1, 5)
    collector = Collector(PAPER)
    collector.begin(entries)
    with pytest.raises(RuntimeError, match="device-side assert"):
        feed_way(collector, [block], rows, "auto")
