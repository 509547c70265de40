"""The acceptance figures: perfect maps score 1, and intervals hold their mean."""

import pytest
import torch

from demo.world import BACKGROUND, NOBODY, Description, Phrase, draw, patches
from evaluation.small_model.acceptance import owners, region_overlaps
from evaluation.statistics import mean_of_groups, share


def test_owners_cover_start_words_end_and_pad():
    told = Description((Phrase(0, 0, None), Phrase(4, 1, None)), background=3)
    row = owners([told])[0].tolist()
    assert row[:12] == [BACKGROUND, 0, 0, 0, NOBODY, 1, 1, 1] + [BACKGROUND] * 4
    assert set(row[12:]) == {NOBODY}


@pytest.mark.parametrize("token", [1, 2, 3])
def test_labels_that_follow_the_truth_overlap_fully_whichever_word_wins(token):
    scenes = draw(6, seed=1, count_weights=(1.0, 0.0, 0.0))
    labels = torch.where(patches(scenes.masks[:, 0], 16) > 0.5, token, 0)
    phrases, _ = region_overlaps(labels, scenes)
    assert all(p == [1.0] for p in phrases)


def test_labels_of_padding_belong_to_nobody():
    scenes = draw(4, seed=1)
    phrases, ground = region_overlaps(torch.full((4, 16, 16), 19), scenes)
    assert all(v == 0 for group in phrases + ground for v in group)


def test_intervals_hold_their_mean_and_narrow_with_more_pictures():
    few, many = mean_of_groups([[0.0, 1.0], [1.0]] * 5), mean_of_groups([[0.0, 1.0], [1.0]] * 50)
    for figure in (few, many):
        assert figure.mean == pytest.approx(2 / 3)
        assert figure.low < figure.mean < figure.high
    assert many.high - many.low < few.high - few.low


def test_a_perfect_share_still_has_an_interval():
    figure = share([[True]] * 100)
    assert figure.mean == figure.high == 1 and 0.95 < figure.low < 0.97
