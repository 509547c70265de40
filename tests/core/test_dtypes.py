"""Half precision and autocast: the method computes in fp32, whatever is around it."""

from dataclasses import replace

import oracle
import pytest
import torch
from cases import (
    AUTHORS,
    BUDGETS,
    DEFAULT,
    PAPER,
    SMALL_GRIDS,
    array,
    assert_ratio,
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
    LayerMaps,
    combine,
    ratio_map,
    segment,
)
from scfg_core.collect.collector import Collector

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
PRESETS = pytest.mark.parametrize("settings", [PAPER, DEFAULT, AUTHORS], ids=["paper", "default", "authors"])


@HALVES
@PRESETS
def test_half_precision_maps_are_computed_in_single(settings, dtype):
    """The maps' own rounding is theirs; what comes after adds nothing."""
    halves = [
        [LayerMaps(x.self_attention.to(dtype), x.cross_attention.to(dtype), x.grid) for x in layers]
        for layers in two(rng_of(80))
    ]
    singles = [
        [LayerMaps(x.self_attention.float(), x.cross_attention.float(), x.grid) for x in layers]
        for layers in halves
    ]
    one, other = segment(*halves, settings), segment(*singles, settings)
    assert one.labels.equal(other.labels) and one.foreground.equal(other.foreground)
    assert one.labels.dtype == torch.int64 and one.foreground.dtype == torch.bool


@HALVES
@PRESETS
def test_half_precision_delta_is_measured_in_single(settings, dtype):
    rng = rng_of(81)
    segmentation = segment(*two(rng), settings)
    delta = noise(rng, 2, Grid(40, 48), dtype=dtype)
    ratio = ratio_map(delta, segmentation, settings, 7.5)
    assert ratio.dtype == torch.float32
    assert_ratio(ratio, delta, segmentation, settings, 7.5)


def test_norm_of_large_halves_does_not_overflow():
    """400 squared over four channels is beyond fp16."""
    rng = rng_of(82)
    segmentation = segment(*two(rng), PAPER)
    delta = (400 * noise(rng, 2, Grid(10, 12))).to(torch.float16)
    assert_ratio(ratio_map(delta, segmentation, PAPER, 7.5), delta, segmentation, PAPER, 7.5)


@HALVES
def test_half_precision_q_and_k_give_the_labels_of_their_float64_maps(dtype):
    rng, tokens = rng_of(83), 7
    blocks = [pair(rng, f"block{i}", grid, 2, tokens) for i, grid in enumerate(SMALL_GRIDS)]
    halves = [
        replace(block, **{part: getattr(block, part).to(dtype) for part in ("q", "k", "cross_q", "cross_k")})
        for block in blocks
    ]
    singles = [
        replace(block, **{part: getattr(block, part).float() for part in ("q", "k", "cross_q", "cross_k")})
        for block in halves
    ]
    seen = []
    for backend in ("stored", "matrix_free"):
        for group in (halves, singles):
            collector = Collector(PAPER, budget_mib=BUDGETS[backend])
            prompts, rows = two_branches(1, tokens)
            collector.begin(prompts)
            feed(collector, group, rows)
            seen.append(gathered(collector, PAPER, Grid(10, 12)))
    changed = [float((one.labels != seen[1].labels).float().mean()) for one in seen]
    assert changed == [0.0] * 4


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
def test_autocast_around_us_changes_nothing(backend):
    rng, tokens = rng_of(85), 7
    blocks = [pair(rng, f"block{i}", grid, 2, tokens) for i, grid in enumerate(SMALL_GRIDS)]
    prompts, rows = two_branches(1, tokens)
    seen = []
    for casting in (False, True):
        collector = Collector(PAPER, budget_mib=BUDGETS[backend])
        collector.begin(prompts)
        with torch.autocast("cpu", torch.bfloat16, enabled=casting):
            feed(collector, blocks, rows)
            seen.append([collector.token_maps(key).values for key in prompts])
    assert all(one.equal(other) for one, other in zip(*seen, strict=True))


@PRESETS
def test_autocast_around_stored_maps_changes_nothing(settings):
    maps = two(rng_of(86))
    plain = segment(*maps, settings)
    with torch.autocast("cpu", torch.bfloat16):
        assert segment(*maps, settings).scores.equal(plain.scores)


@HALVES
def test_combine_keeps_the_dtype(dtype):
    rng = rng_of(84)
    cond, uncond = (noise(rng, 1, Grid(8, 8), dtype=dtype) for _ in range(2))
    out = combine(cond, uncond, torch.full((1, 1, 8, 8), 1.3), 7.5)
    assert out.dtype == dtype
    expected = oracle.combine(array(cond), array(uncond), 1.3, 7.5)
    torch.testing.assert_close(out.double(), torch.from_numpy(expected), rtol=3e-2, atol=3e-1)
