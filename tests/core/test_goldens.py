"""What the authors' released code computes (tests/data/goldens): the `authors` preset must equal it."""

import numpy as np
import oracle
import pytest
from cases import AUTHORS, BUDGETS, GOLDENS, alone, assert_ratio, gathered, image_of, logs, tensor

from scfg_core import Grid, LayerMaps, Prompt, combine, ratio_map, segment
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector

NAMES = ["plain", "structured", "high_scale", "batch3"]
GRIDS = {"r4": Grid(8, 8), "r8": Grid(4, 4)}


@pytest.fixture(params=NAMES)
def golden(request):
    with np.load(GOLDENS / f"{request.param}.npz") as stored:
        return dict(stored)


def batch_of(golden):
    return len(golden["label"])


def layers_of(golden, rows):
    return [
        LayerMaps(tensor(self_map[rows]), tensor(cross[rows]), grid)
        for key, grid in GRIDS.items()
        for self_map, cross in zip(golden[f"self_{key}"], golden[f"cross_{key}"], strict=True)
    ]


def branches(golden):
    """cond, uncond: the unconditional rows come first."""
    batch = batch_of(golden)
    return layers_of(golden, slice(batch, None)), layers_of(golden, slice(0, batch))


def delta_of(golden):
    return tensor(golden["eps_cond"]) - tensor(golden["eps_uncond"])


def assert_equals_golden(segmentation, golden):
    assert np.array_equal(segmentation.labels.numpy(), golden["label"])
    assert np.array_equal(segmentation.foreground.numpy(), golden["foreground"].astype(bool))
    ratio = ratio_map(delta_of(golden), segmentation, AUTHORS, float(golden["guidance_scale"]))
    np.testing.assert_allclose(ratio.numpy(), golden["ratio"], rtol=1e-5, atol=1e-5)


def test_authors_preset_equals_the_authors_code(golden):
    assert_equals_golden(segment(*branches(golden), AUTHORS), golden)


def test_ratio_before_clamp_cap_and_smoothing_equals_the_authors(golden):
    bare = AUTHORS.__class__(ratio_min=0.0, ratio_max=float("inf"), cap="none", smooth_ratio=False)
    segmentation = segment(*branches(golden), AUTHORS)
    ratio = ratio_map(delta_of(golden), segmentation, bare, float(golden["guidance_scale"]))
    np.testing.assert_allclose(ratio.numpy(), golden["ratio_raw"], rtol=1e-5, atol=0)


def test_guided_prediction_equals_the_authors(golden):
    scale = float(golden["guidance_scale"])
    cond, uncond = tensor(golden["eps_cond"]), tensor(golden["eps_uncond"])
    ratio = ratio_map(cond - uncond, segment(*branches(golden), AUTHORS), AUTHORS, scale)
    expected = oracle.combine(
        golden["eps_cond"].astype(float),
        golden["eps_uncond"].astype(float),
        golden["ratio"].astype(float),
        scale,
    )
    np.testing.assert_allclose(combine(cond, uncond, ratio, scale).numpy(), expected, rtol=1e-4, atol=1e-4)


def test_oracle_equals_the_authors_code(golden):
    """The oracle is only worth something if it passes too."""
    cond, uncond = branches(golden)
    for image in range(batch_of(golden)):
        expected = oracle.segment(image_of(cond, image), image_of(uncond, image), AUTHORS)
        assert not expected.tied.any() and not expected.fg_tied.any()
        assert np.array_equal(expected.labels, golden["label"][image])
        assert np.array_equal(expected.foreground, golden["foreground"][image].astype(bool))
        ratio = oracle.ratio_map(
            golden["eps_cond"][image].astype(float) - golden["eps_uncond"][image],
            expected.labels,
            expected.foreground,
            AUTHORS,
            float(golden["guidance_scale"]),
        )
        np.testing.assert_allclose(ratio, golden["ratio"][image, 0], rtol=1e-5, atol=1e-5)


def test_each_golden_image_gives_the_same_alone(golden):
    cond, uncond = branches(golden)
    for image in range(batch_of(golden)):
        segmentation = segment(alone(cond, image), alone(uncond, image), AUTHORS)
        assert np.array_equal(segmentation.labels[0].numpy(), golden["label"][image])
        delta = delta_of(golden)[image : image + 1]
        ratio = ratio_map(delta, segmentation, AUTHORS, float(golden["guidance_scale"]))
        assert_ratio(ratio, delta, segmentation, AUTHORS, float(golden["guidance_scale"]))


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
def test_authors_preset_from_q_and_k_equals_the_authors_code(golden, backend):
    """One head, k the identity, q the maps' logarithms: the collector's softmax gives the maps back."""
    batch = batch_of(golden)
    tokens = golden["cross_r4"].shape[-1]
    collector = Collector(AUTHORS, budget_mib=BUDGETS[backend])
    collector.begin({"positive": Prompt.plain("cond", tokens), "negative": Prompt.plain("uncond", tokens)})
    rows = [Rows("negative", slice(0, batch)), Rows("positive", slice(batch, 2 * batch))]
    for key, grid in GRIDS.items():
        for index, (self_map, cross) in enumerate(zip(golden[f"self_{key}"], golden[f"cross_{key}"], strict=True)):
            layer, layouts = f"{key}.{index}", (Layout.self_attention(grid), Layout.cross_attention(tokens))
            for maps, layout in zip((self_map, cross), layouts, strict=True):
                collector.observe(LayerCall(layer, *logs(maps), rows, grid, layout, scale=1.0))
    assert_equals_golden(gathered(collector, AUTHORS, Grid(32, 32)), golden)
