"""The acceptance figures: perfect maps score 1, criteria are told apart, and intervals hold their mean."""

import pytest
import torch

from demo.drawing import draw, patch_owners
from demo.world import GROUND, SKY, held_out_scenes
from evaluation.small_model.acceptance import Criterion, overlap, token_overlaps
from evaluation.small_model.noised import TrueScenes
from evaluation.statistics import Figure, mean_of_groups, share


@pytest.fixture(scope="module")
def true():
    return TrueScenes.held_out(12, seed=1)


def labels_of(true, last: bool):
    """The first or last token of whoever owns each patch; START where the caption does not name it."""
    labels = torch.zeros_like(true.patches)
    for row, owners in enumerate(true.token_owners):
        for owner in {*range(3), GROUND, SKY}:
            tokens = (owners == owner).nonzero().flatten()
            if len(tokens):
                labels[row][true.patches[row] == owner] = tokens[-1 if last else 0]
    return labels


@pytest.mark.parametrize("last", [False, True])
def test_labels_that_follow_the_truth_overlap_fully_whichever_word_wins(true, last):
    assert all(value == 1 for group in token_overlaps(labels_of(true, last), true) for value in group)


def test_labels_of_start_and_padding_belong_to_nobody(true):
    for token in (0, 23):
        groups = token_overlaps(torch.full((12, 16, 16), token), true)
        assert groups
        assert all(value == 0 for group in groups for value in group)


def test_every_named_owner_that_the_image_shows_is_counted(true):
    groups = token_overlaps(labels_of(true, False), true)
    shown = torch.stack([(true.patches == owner).flatten(1).any(1) for owner in range(5)], dim=1)
    assert [len(group) for group in groups] == (true.scenes.said() & shown).sum(1).tolist()


def test_overlap_of_masks():
    one = torch.tensor([[[1, 1], [0, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)
    other = torch.tensor([[[1, 0], [1, 0]], [[0, 0], [0, 0]]], dtype=torch.bool)
    assert overlap(one, other).tolist() == [pytest.approx(1 / 3), 0]


def test_true_scenes_are_the_same_whenever_they_are_drawn(true):
    scenes = held_out_scenes(12, 1)
    _, owners = draw(scenes, 2)
    assert torch.equal(true.patches, patch_owners(owners, 16))


@pytest.mark.parametrize(
    ("rule", "bound", "met"), [("at least", 0.5, True), ("at most", 0.5, False), ("above", 0.3, False)]
)
def test_criteria(rule, bound, met):
    figures = {"things": Figure(0.6, 0.25, 0.8, 9)}
    assert Criterion("things", rule, bound).met(figures) is met
    assert Criterion("things", rule, 0.6 if rule == "at most" else 0.2).met(figures)


def test_intervals_hold_their_mean_and_narrow_with_more_images():
    few, many = mean_of_groups([[0.0, 1.0], [1.0]] * 5), mean_of_groups([[0.0, 1.0], [1.0]] * 50)
    for figure in (few, many):
        assert figure.mean == pytest.approx(2 / 3)
        assert figure.low < figure.mean < figure.high
    assert many.high - many.low < few.high - few.low


def test_a_perfect_share_still_has_an_interval():
    figure = share([[True]] * 100)
    assert figure.mean == figure.high == 1 and 0.95 < figure.low < 0.97
