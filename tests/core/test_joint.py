"""Text and image keys in one softmax: S and C are two blocks of its columns."""

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
    array,
    assert_segmented,
    gathered,
    rng_of,
    tensor,
    two_branches,
)

from scfg_core.collect.calls import LayerCall, Layout
from scfg_core.collect.collector import Collector

BOTH = pytest.mark.parametrize("settings", [PAPER, AUTHORS], ids=["paper", "authors"])


LAYOUTS = {
    # name: order of the parts of the keys; "other" keys are neither text nor image
    "text_first": ("text", "image"),
    "image_first": ("image", "text"),
    "more_keys": ("other", "text", "image"),
}


def joint_layers(settings, collector, rows, layout, tokens, repeats=1, loud=0.0):
    """Feed TWO_GRIDS as joint layers; returns every row's layers as the oracle takes them."""
    rng, count = rng_of(34), max(part.rows.stop for part in rows)
    layers = [[] for _ in range(count)]
    for index, grid in enumerate(TWO_GRIDS):
        lengths, places, end = {"text": tokens * repeats, "image": grid.area, "other": 3}, {}, 0
        for part in LAYOUTS[layout]:
            places[part] = slice(end, end + lengths[part])
            end += lengths[part]
        text, image = places["text"], places["image"]
        q = 1.5 * rng.standard_normal((count, 2, grid.area, 8)) + 1
        k = 1.5 * rng.standard_normal((count, 2, end, 8))
        if repeats > 1:
            k[:, :, text] = np.tile(k[:, :, text.start : text.start + tokens], (1, 1, repeats, 1))
        k[:, :, text] += loud  # q leans to +1: louder text takes more of the softmax
        q, k = tensor(q), tensor(k)
        keys = Layout(end, range(text.start, text.stop), range(image.start, image.stop))
        collector.observe(LayerCall(f"block{index}", q, k, rows, grid, keys))
        for row in range(count):
            self_map, cross = oracle.split_joint(
                oracle.head_mean(array(q[row]), array(k[row])), text, image, settings.renormalise == "after_fusion"
            )
            layers[row].append((self_map, oracle.fold_repeats(cross, tokens), (grid.h, grid.w)))
    return layers


@pytest.mark.parametrize("backend", ["stored", "matrix_free", "auto"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["paper", "authors", "uneven_powers", "argmax_foreground", "no_self_attention"])
def test_joint_form_equals_the_oracle(name, layout, backend):
    settings, tokens, batch = SETTINGS[name], 7, 2
    collector = Collector(settings, budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(batch, tokens)
    collector.begin(prompts)
    layers = joint_layers(settings, collector, rows, layout, tokens)
    segmentation = gathered(collector, settings, LATENT)
    for one in range(batch):
        assert_segmented(segmentation, oracle.segment(layers[batch + one], layers[one], settings), one)


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
@BOTH
def test_joint_form_folds_repeated_tokens(settings, backend):
    collector = Collector(settings, budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(1, 5)
    collector.begin(prompts)
    layers = joint_layers(settings, collector, rows, "text_first", 5, repeats=3)
    assert collector.token_maps("positive").values.shape[2] == 5
    assert_segmented(gathered(collector, settings, LATENT), oracle.segment(layers[1], layers[0], settings))


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
def test_joint_form_holds_when_text_takes_nearly_all(backend):
    """Rows of S that sum to 1 % and less are still divided by what they sum to, not by what is left of 1."""
    collector = Collector(PAPER, budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(1, 5)
    collector.begin(prompts)
    layers = joint_layers(PAPER, collector, rows, "text_first", 5, loud=1.0)
    assert_segmented(gathered(collector, PAPER, LATENT), oracle.segment(layers[1], layers[0], PAPER))
    for row, key in enumerate(("negative", "positive")):
        columns = (lambda cross: oracle.start_and_rest(cross, (0,))) if row == 0 else (lambda cross: cross)
        expected, _ = oracle.fuse(layers[row], PAPER, columns, 0.0)
        error = np.abs(array(collector.token_maps(key).values[0]) - expected).max()
        assert error <= 1e-6 * np.abs(expected).max()
