"""Masks from scores."""

import pytest
import torch

from scfg_core import Grid, TokenMaps
from scfg_core.run.masks import feather, labels_of_scores, soft_mask, stretch


def scores(values, h, w):
    return TokenMaps(torch.tensor(values).reshape(1, h * w, -1), Grid(h, w), renormalised=True)


def test_a_soft_mask_is_the_share_of_all_tokens():
    maps = scores([[1.0, 3.0, 0.0], [2.0, 1.0, 1.0]], 1, 2)
    assert torch.allclose(soft_mask(maps, [1, 2], Grid(1, 2)), torch.tensor([[[0.75, 0.5]]]))


def test_all_words_together_have_everything_and_a_patch_of_nobody_has_nothing():
    maps = scores([[1.0, 3.0], [0.0, 0.0]], 1, 2)
    assert torch.equal(soft_mask(maps, [0, 1], Grid(1, 2)), torch.tensor([[[1.0, 0.0]]]))


def test_a_soft_mask_keeps_frames_apart():
    frames = [[[1.0, 3.0], [0.0, 4.0]], [[4.0, 0.0], [4.0, 0.0]]]
    one_by_one = [soft_mask(scores(frame, 2, 1), [1], Grid(6, 3)) for frame in frames]
    maps = TokenMaps(torch.tensor(frames).reshape(1, 4, 2), Grid(4, 1, frames=2), renormalised=True)
    assert torch.equal(soft_mask(maps, [1], Grid(12, 3, frames=2)), torch.cat(one_by_one, dim=1))


def test_labels_of_summed_scores():
    maps = scores([[1.0, 3.0], [2.0, 2.0], [0.0, 0.0]], 1, 3)
    assert labels_of_scores(maps).tolist() == [[[1, 0, -1]]]


def test_stretching_reaches_from_zero_to_one_in_each_image_and_keeps_a_flat_one_empty():
    mask = torch.tensor([[[0.2, 0.3], [0.25, 0.2]], [[0.5, 0.5], [0.5, 0.5]]])
    expected = torch.tensor([[[0.0, 1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert torch.allclose(stretch(mask), expected, atol=1e-6)


@pytest.mark.parametrize("radius", [1, 3, 8])
def test_feathering_keeps_what_is_flat_and_softens_a_border_evenly(radius):
    assert torch.allclose(feather(torch.ones(2, 9, 7), radius), torch.ones(2, 9, 7))
    edge = torch.zeros(1, 40, 40)
    edge[:, :, 20:] = 1
    soft = feather(edge, radius)[0, 20]
    assert torch.all(soft[1:] >= soft[:-1] - 1e-6)
    assert soft[19] + soft[20] == pytest.approx(1, abs=1e-5)
    assert 0 < soft[19] < 0.5


def test_no_feather_is_the_mask_itself():
    mask = torch.rand(1, 5, 5)
    assert feather(mask, 0) is mask
