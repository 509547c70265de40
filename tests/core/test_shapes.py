"""Tensors that do not fit their role are refused with a message that says what to do."""

import pytest
import torch
from cases import (
    PAPER,
    assert_tells,
    rng_of,
    two,
)

from scfg_core import (
    Grid,
    LayerMaps,
    ScfgError,
    Segmentation,
    ShapeError,
    combine,
    ratio_map,
    segment,
)


def maps(grid, tokens=5, batch=2, patches=None):
    patches = patches or grid.area
    return torch.full((batch, patches, patches), 1 / patches), torch.full((batch, patches, tokens), 1 / tokens)


@pytest.mark.parametrize(
    "self_shape, cross_shape",
    [
        ((1, 20, 20), (1, 20, 5)),
        ((1, 12, 12), (1, 20, 5)),
        ((1, 20, 12), (1, 12, 5)),
        ((1, 12, 20), (1, 12, 5)),
        ((2, 12, 12), (1, 12, 5)),
        ((12, 12), (12, 5)),
        ((1, 12, 12), (1, 12)),
        ((1, 12, 12), (1, 12, 0)),
        ((1, 3, 4, 12), (1, 12, 5)),
        (None, (1, 20, 5)),
    ],
)
def test_maps_that_do_not_fit_their_grid_are_refused(self_shape, cross_shape):
    self_map = None if self_shape is None else torch.ones(self_shape)
    with pytest.raises(ShapeError) as error:
        LayerMaps(self_map, torch.ones(cross_shape), Grid(3, 4))
    assert_tells(error, "12")


@pytest.mark.parametrize("h, w", [(0, 4), (3, 0), (-1, 5)])
def test_empty_grid_is_refused(h, w):
    with pytest.raises(ShapeError) as error:
        Grid(h, w)
    assert_tells(error, f"{h}×{w}")


@pytest.mark.parametrize("cond, uncond", [(0, 1), (1, 0), (0, 0)])
def test_branch_without_a_layer_is_refused(cond, uncond):
    layer = LayerMaps(*maps(Grid(3, 4)), Grid(3, 4))
    with pytest.raises(ScfgError) as error:
        segment([layer] * cond, [layer] * uncond, PAPER)
    assert_tells(error)


def test_no_start_needs_no_unconditional_maps():
    cond, _ = two(rng_of(104))
    segmentation = segment(cond, [], PAPER, start_tokens=())
    assert segmentation.foreground.all() and not segmentation.has_foreground.any()


@pytest.mark.parametrize("where", ["cond", "uncond"])
def test_layers_of_different_batch_are_refused(where):
    layers = {side: [LayerMaps(*maps(Grid(3, 4)), Grid(3, 4))] for side in ("cond", "uncond")}
    layers[where].append(LayerMaps(*maps(Grid(2, 2), batch=3), Grid(2, 2)))
    with pytest.raises(ShapeError) as error:
        segment(layers["cond"], layers["uncond"], PAPER)
    assert_tells(error, "2", "3")


def test_branches_of_different_batch_are_refused():
    cond, uncond = ([LayerMaps(*maps(Grid(3, 4), batch=batch), Grid(3, 4))] for batch in (2, 3))
    with pytest.raises(ShapeError) as error:
        segment(cond, uncond, PAPER)
    assert_tells(error, "2", "3")


@pytest.mark.parametrize("where", ["cond", "uncond"])
def test_layers_of_different_length_are_refused(where):
    layers = {side: [LayerMaps(*maps(Grid(3, 4)), Grid(3, 4))] for side in ("cond", "uncond")}
    layers[where].append(LayerMaps(*maps(Grid(2, 2), tokens=6), Grid(2, 2)))
    with pytest.raises(ShapeError) as error:
        segment(layers["cond"], layers["uncond"], PAPER)
    assert_tells(error, "5", "6")


@pytest.mark.parametrize("start_tokens", [(5,), (0, 7), (-1,)])
def test_start_token_beyond_the_prompt_is_refused(start_tokens):
    layers = [LayerMaps(*maps(Grid(3, 4)), Grid(3, 4))]
    with pytest.raises(ScfgError) as error:
        segment(layers, layers, PAPER, start_tokens=start_tokens)
    assert_tells(error, str(start_tokens[-1]))


def test_powers_without_self_attention_are_refused():
    layers = [LayerMaps(None, maps(Grid(3, 4))[1], Grid(3, 4))]
    with pytest.raises(ScfgError) as error:
        segment(layers, layers, PAPER)
    assert_tells(error, "self_attention")


@pytest.mark.parametrize("shape", [(2, 4, 8), (3, 4, 8, 8), (2, 4, 8, 8, 8), (4, 8, 8)])
def test_delta_that_does_not_fit_the_segmentation_is_refused(shape):
    segmentation = Segmentation(
        labels=torch.zeros(2, 3, 4, dtype=torch.int64), foreground=torch.ones(2, 3, 4, dtype=torch.bool)
    )
    with pytest.raises(ShapeError) as error:
        ratio_map(torch.ones(shape), segmentation, PAPER, 7.5)
    assert_tells(error)


@pytest.mark.parametrize("labels, foreground", [((2, 3, 4), (2, 4, 3)), ((2, 3, 4), (1, 3, 4)), ((3, 4), (3, 4))])
def test_segmentation_whose_parts_do_not_fit_is_refused(labels, foreground):
    with pytest.raises(ShapeError) as error:
        Segmentation(
            labels=torch.zeros(labels, dtype=torch.int64), foreground=torch.ones(foreground, dtype=torch.bool)
        )
    assert_tells(error)


@pytest.mark.parametrize("ratio", [(2, 4, 8, 8), (2, 8, 8), (2, 1, 4, 8), (3, 1, 8, 8)])
def test_ratio_that_does_not_fit_the_prediction_is_refused(ratio):
    eps = torch.ones(2, 4, 8, 8)
    with pytest.raises(ShapeError) as error:
        combine(eps, eps, torch.ones(ratio), 7.5)
    assert_tells(error)


def test_predictions_of_different_shape_are_refused():
    with pytest.raises(ShapeError) as error:
        combine(torch.ones(2, 4, 8, 8), torch.ones(2, 4, 8, 9), torch.ones(2, 1, 8, 8), 7.5)
    assert_tells(error)
