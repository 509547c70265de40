"""The world of shapes: seeded, within range, with masks and owners that agree with the words."""

import pytest
import torch

from demo.world import (
    BACKGROUND,
    DIAMETERS,
    NOBODY,
    SHAPES,
    SIZE,
    Description,
    Phrase,
    draw,
    palette,
    patches,
    pick,
)


@pytest.fixture(scope="module")
def scenes():
    return draw(200, seed=3)


def test_the_same_seed_draws_the_same_scenes(scenes):
    again = draw(200, seed=3)
    assert torch.equal(again.images, scenes.images)
    assert again.descriptions == scenes.descriptions
    assert not torch.equal(draw(200, seed=4).images, scenes.images)


def test_pictures_stay_in_range(scenes):
    assert scenes.images.shape == (200, 3, SIZE, SIZE)
    assert scenes.images.min() >= -1 and scenes.images.max() <= 1


def test_masks_never_overlap_and_exist_for_every_phrase(scenes):
    assert scenes.masks.sum(1).max() == 1
    for mask, told in zip(scenes.masks, scenes.descriptions, strict=True):
        assert mask.any((1, 2)).sum() == len(told.phrases)
        assert (mask.sum((1, 2))[: len(told.phrases)] >= 25).all()


def test_a_mask_shows_the_colour_of_its_phrase(scenes):
    for image, mask, told in zip(scenes.images, scenes.masks, scenes.descriptions, strict=True):
        for k, phrase in enumerate(told.phrases):
            colour = image[:, mask[k]].median(1).values
            assert torch.cdist(colour[None], palette()).argmin() == phrase.colour


def test_a_background_phrase_names_the_background(scenes):
    named = [(d.background, b) for d, b in zip(scenes.descriptions, scenes.backgrounds, strict=True)]
    assert all(said is None or said == true for said, true in named)
    share = sum(said is not None for said, _ in named) / len(named)
    assert 0.15 < share < 0.35


def test_every_number_of_shapes_and_every_shape_appears(scenes):
    assert {len(d.phrases) for d in scenes.descriptions} == {1, 2, 3}
    assert {p.shape for d in scenes.descriptions for p in d.phrases} == set(range(len(SHAPES)))
    assert len(DIAMETERS) == 3


def test_a_place_tells_on_which_side_the_shape_is(scenes):
    ramp = torch.arange(SIZE) + 0.5
    checked = 0
    for mask, told in zip(scenes.masks, scenes.descriptions, strict=True):
        for k, phrase in enumerate(told.phrases):
            if phrase.place:
                along = mask[k].any(0) if phrase.place in ("left", "right") else mask[k].any(1)
                middle = ramp[along].mean() - SIZE / 2
                assert middle < 0 if phrase.place in ("left", "top") else middle > 0
                checked += 1
    assert checked > 20


def test_a_caption_reads_as_its_description():
    told = Description((Phrase(0, 0, "left"), Phrase(4, 1, None)), background=3)
    assert told.caption == "a red circle on the left and a blue square on a green background"
    owners = [owner for _, owner in told.words()]
    assert owners == [0] * 6 + [NOBODY] + [1] * 3 + [BACKGROUND] * 4


def test_held_out_captions_are_about_one_in_ten_and_disjoint(scenes):
    kept, held = pick(scenes, held_out=False), pick(scenes, held_out=True)
    assert len(kept) + len(held) == 200
    assert 5 <= len(held) <= 40
    assert not {d.caption for d in kept.descriptions} & {d.caption for d in held.descriptions}


def test_patches_give_the_share_that_a_mask_covers():
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:3, :2] = True
    share = patches(mask, 16)
    assert share[0, 0] == 1 and share[1, 0] == 0.5 and share.sum() == 1.5
