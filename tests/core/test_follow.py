"""A region that follows words, on segmentations made by hand."""

import pytest
import torch

from scfg_core import Grid, Prompt, Segmentation
from scfg_core.run.follow import Follower, FollowWords

CAT_ON_SOFA = [Prompt.plain("cond", 4, (0,), ("<start>", "cat", "on", "sofa"), (-1, 0, 1, 2))]
NOWHERE = torch.zeros(1, 1, 1)


def segmentation(labels, finite=None, scores=None, frames=1):
    labels = torch.tensor(labels)
    score_labels = ((0, 1, 2, 3),)
    foreground = torch.ones_like(labels, dtype=torch.bool)
    return Segmentation(labels, foreground, 4, finite, None, scores, score_labels, frames)


def follower(words="cat", **options):
    return Follower(FollowWords(words, **options))


def mask_of(one, images=1, size=None, fallback=NOWHERE):
    size = size or Grid(4, 4)
    return one.mask(images, size, fallback.expand(1, size.h, size.w))


def test_whole_patches_of_the_words_are_followed():
    one = follower("cat, sofa")
    one.update(segmentation([[[1, 3], [0, 2]]]), CAT_ON_SOFA)
    rows = [[1, 1, 1, 1]] * 2 + [[0, 0, 0, 0]] * 2
    assert torch.equal(mask_of(one), torch.tensor([rows]).float())


def test_a_soft_region_follows_the_share_of_all_tokens():
    one = follower(mode="soft")
    scores = torch.tensor([[[1.0, 2.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]])
    one.update(segmentation([[[1, 3]]], scores=scores), CAT_ON_SOFA)
    assert torch.equal(mask_of(one, size=Grid(1, 2)), torch.tensor([[[0.5, 0.0]]]))


def test_a_soft_region_is_that_of_the_whole_phrase():
    red_cat = [Prompt.plain("cond", 4, (0,), ("<start>", "red", "cat", "on"), (-1, 0, 1, 2))]
    one = follower(mode="soft")
    scores = torch.tensor([[[1.0, 2.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]])
    one.update(segmentation([[[1, 3]]], scores=scores), red_cat)
    assert torch.equal(mask_of(one, size=Grid(1, 2)), torch.tensor([[[0.75, 0.5]]]))


def test_an_image_whose_maps_are_not_finite_follows_the_fallback():
    one = follower(fallback="everywhere")
    labels = [[[1, 3], [0, 2]], [[-1, -1], [-1, -1]]]
    one.update(segmentation(labels, finite=torch.tensor([True, False])), CAT_ON_SOFA)
    mask = mask_of(one, 2, fallback=torch.ones(1, 1, 1))
    assert mask[0].mean() == 0.25
    assert torch.all(mask[1] == 1)
    assert one.fell_back()


def test_shares_are_those_of_each_image():
    one = follower(min_share=0.3)
    one.update(segmentation([[[1, 1], [0, 2]], [[1, 2], [0, 2]]]), CAT_ON_SOFA)
    assert mask_of(one, 2).mean(dim=(1, 2)).tolist() == [0.5, 0.0]


def test_blended_are_the_regions_of_allowed_shares_alone():
    one = follower(blend=4, max_share=0.6)
    small, full = [[[1, 1], [0, 2]]], [[[1, 1], [1, 1]]]
    for labels in (full, small, full, small):
        one.update(segmentation(labels), CAT_ON_SOFA)
    assert torch.equal(mask_of(one)[0], torch.tensor([[1.0] * 4] * 2 + [[0.0] * 4] * 2))
    assert one.fell_back()


@pytest.mark.parametrize("mode", ["hard", "soft", "stretched"])
def test_frames_are_followed_one_by_one(mode):
    """Two frames, of which the words own one: nothing of it reaches the other, blurred or not."""
    scores = torch.tensor([[[0.0, 3.0, 0.0, 1.0]] * 4 + [[0.0, 0.0, 0.0, 4.0]] * 4])
    one = follower(mode=mode, feather=2.0)
    one.update(segmentation([[[1, 1], [1, 1], [3, 3], [3, 3]]], scores=scores), CAT_ON_SOFA)
    mask = mask_of(one, size=Grid(16, 8, frames=2))
    assert torch.all(mask[:, :8] > 0.7)
    assert torch.all(mask[:, 8:] == 0)


def test_small_parts_that_touch_across_frames_are_dropped():
    one = Follower(FollowWords("cat"), min_region=0.3)
    one.update(segmentation([[[1, 1], [0, 1], [0, 1], [1, 1]]], frames=2), CAT_ON_SOFA)
    assert mask_of(one, size=Grid(4, 2, frames=2)).sum() == 6
    one.update(segmentation([[[1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 0]]], frames=2), CAT_ON_SOFA)
    assert mask_of(one, size=Grid(4, 4, frames=2))[0, 1:3].sum() == 0


def test_another_number_of_images_begins_anew():
    one = follower(blend=4)
    one.update(segmentation([[[1, 3], [0, 2]]]), CAT_ON_SOFA)
    assert torch.all(mask_of(one, 2) == 0), "no region of two images yet"
    one.update(segmentation([[[0, 3], [0, 1]]] * 2), CAT_ON_SOFA)
    assert mask_of(one, 2).mean(dim=(1, 2)).tolist() == [0.25, 0.25]


def test_a_word_that_the_prompts_have_lost_owns_nothing():
    one = follower()
    one.update(
        segmentation([[[1, 1], [1, 1]]]), [Prompt.plain("cond", 4, (0,), ("<start>", "a", "b", "c"), (-1, 0, 1, 2))]
    )
    assert torch.all(mask_of(one) == 0)
