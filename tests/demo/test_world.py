"""The picture book: captions say what is there, owners say whose it is, and the same seed draws the same scenes."""

import hashlib

import pytest
import torch

from demo import things
from demo.drawing import draw, patch_owners, to_float
from demo.wavelet import CHANNELS, decode, encode
from demo.words import COLOURS, GROUND_THINGS, GROUNDS, LENGTH, NOUNS, PAD, SKIES, VOCABULARY
from demo.world import (
    GROUND,
    NOBODY,
    SKY,
    Scenes,
    captions,
    held_out,
    held_out_scenes,
    layout,
    spell,
    training_scenes,
)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return layout(400, seed=1)


@pytest.fixture(scope="module")
def drawn(scenes):
    return draw(scenes, seed=2)


def test_a_seed_means_these_scenes_for_good():
    """The weights were trained on them, and the evidence names its seeds."""
    scenes = layout(600, seed=21)
    tokens, owners = captions(scenes)
    assert spell(tokens[0]) == "a purple rocket and a green heart"
    content = torch.cat([tokens, owners, held_out(scenes)[:, None].long()], dim=1)
    assert hashlib.sha256(content.numpy().tobytes()).hexdigest()[:16] == "5540e7839c2ffa96"


def test_a_caption_names_every_thing_in_its_colour_and_nothing_else(scenes):
    for index, row in enumerate(captions(scenes)[0]):
        words = spell(row).split()
        there = scenes.present[index].nonzero()[:, 0].tolist()
        expected = {(COLOURS[scenes.colour[index, slot]], NOUNS[scenes.noun[index, slot]]) for slot in there}
        assert {(a, b) for a, b in zip(words, words[1:], strict=False) if b in NOUNS} == expected
        assert (GROUNDS[scenes.ground[index]] in words) == scenes.says_ground[index]
        assert (SKIES[scenes.sky[index]] in words) == scenes.says_sky[index]
        assert sum(word in (*GROUNDS, *SKIES) for word in words) == scenes.said()[index, GROUND:].sum()


def test_tokens_belong_to_what_they_name(scenes):
    tokens, owners = captions(scenes)
    for index in range(100):
        for token, owner in zip(tokens[index].tolist(), owners[index].tolist(), strict=True):
            word = VOCABULARY[token]
            if word in NOUNS:
                assert scenes.present[index, owner] and NOUNS[scenes.noun[index, owner]] == word
            assert (owner == NOBODY) == (word == "and" or token <= PAD)
            assert word not in GROUNDS or owner == GROUND
            assert word not in SKIES or owner == SKY
    assert torch.equal(scenes.said(), torch.stack([(owners == owner).any(1) for owner in range(5)], dim=1))


def test_a_place_that_is_said_is_where_the_thing_is(scenes):
    seen = 0
    for index, row in enumerate(captions(scenes)[0]):
        words = spell(row).split()
        for place, word in enumerate(words):
            if word in ("left", "right"):
                noun = words[place - 3]
                slot = next(slot for slot in range(2) if NOUNS[scenes.noun[index, slot]] == noun)
                assert (scenes.x[index, slot] < scenes.x[index, 1 - slot]) == (word == "left")
                seen += 1
    assert seen > 20


def test_every_owner_that_is_there_has_pixels_and_no_other(scenes, drawn):
    _, owners = drawn
    for slot in range(3):
        has = (owners == slot).flatten(1).sum(1)
        assert (has[scenes.present[:, slot]] > 40).all()
        assert (has[~scenes.present[:, slot]] == 0).all()
    assert ((owners == GROUND).flatten(1).any(1) & (owners == SKY).flatten(1).any(1)).all()


def test_things_stand_on_the_ground_or_hang_in_the_sky(scenes):
    assert (scenes.noun[:, :2] < len(GROUND_THINGS)).all() and (scenes.noun[:, 2] >= len(GROUND_THINGS)).all()
    foot = (scenes.y + scenes.half)[:, :2]
    assert (foot > scenes.horizon[:, None])[scenes.present[:, :2]].all()


def test_the_named_colour_fills_its_thing(scenes, drawn):
    """Of the pixels that a thing owns, those near its named colour are many, and more than those near another."""
    from demo.drawing import TINTS

    images, owners = drawn
    tints = torch.tensor([TINTS[name] for name in COLOURS])
    right = total = 0
    for index in range(200):
        for slot in scenes.present[index].nonzero()[:, 0].tolist():
            pixels = images[index].float()[:, owners[index] == slot].T / 255
            nearest = torch.cdist(pixels, tints).argmin(1)
            right += int(nearest.bincount(minlength=len(COLOURS)).argmax() == scenes.colour[index, slot])
            total += 1
    assert right / total > 0.9


def test_the_same_seed_draws_the_same_images_and_another_other_textures(scenes):
    few = scenes[:8]
    (one, owner), (same, _), (other, other_owner) = (draw(few, seed) for seed in (3, 3, 4))
    assert one.dtype == torch.uint8 and one.shape == (8, 3, 64, 64)
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(owner, other_owner)


def test_scenes_are_drawn_alone_as_among_others(scenes):
    """Owners, at least: textures come from one stream of chance."""
    assert torch.equal(draw(scenes[5:6], 0)[1][0], draw(scenes[:8], 0)[1][5])


@pytest.mark.parametrize("noun", NOUNS)
def test_every_thing_has_its_own_shape_within_its_box(noun):
    side = torch.linspace(-1.6, 1.6, 65)
    x, y = side[None, :].expand(65, 65), side[:, None].expand(65, 65)
    pieces = things.parts(noun, x, y)
    inside = torch.stack([distance for distance, _ in pieces]).amin(0) < 0
    assert 0.05 < inside.float().mean() < 0.5
    assert not inside[y.abs() > 1.25].any() and not inside[x.abs() > 1.2].any()
    assert any(paint == things.NAMED for _, paint in pieces)


def test_patches_belong_to_who_has_most_of_them():
    owners = torch.full((1, 64, 64), SKY, dtype=torch.uint8)
    owners[0, 32:] = GROUND
    owners[0, :4, :3] = 0
    found = patch_owners(owners, 16)
    assert found.shape == (1, 16, 16)
    assert found[0, 0, 0] == 0 and found[0, 0, 1] == SKY and (found[0, 8:] == GROUND).all()


def test_one_content_in_ten_is_held_out_whatever_the_arrangement():
    scenes = layout(20_000, seed=3)
    held = held_out(scenes)
    assert 0.09 < held.float().mean() < 0.11
    fields = {name: getattr(scenes, name) for name in Scenes.__dataclass_fields__}
    moved = Scenes(**fields | {"x": scenes.x + 1, "order": scenes.order.flip(1), "says_sky": ~scenes.says_sky})
    assert torch.equal(held_out(moved), held)
    other = Scenes(**fields | {"ground": (scenes.ground + 1) % len(GROUNDS)})
    assert not torch.equal(held_out(other), held)


def test_held_out_and_training_scenes_have_no_content_in_common():
    assert len(held_out_scenes(30, seed=4)) == 30
    assert held_out(held_out_scenes(30, seed=4)).all()
    assert not held_out(training_scenes(300, seed=4)).any()


def test_every_caption_fits(scenes):
    tokens, _ = captions(scenes)
    assert tokens.shape == (400, LENGTH)
    assert (tokens == VOCABULARY.index("<end>")).sum(1).eq(1).all()


def test_the_wavelet_is_invertible_and_keeps_its_first_channels_for_a_small_image(drawn):
    images = to_float(drawn[0][:16])
    latents = encode(images)
    assert latents.shape == (16, CHANNELS, 32, 32)
    assert torch.allclose(decode(latents), images, atol=1e-5)
    small = torch.nn.functional.avg_pool2d(images, 2)
    assert torch.allclose(latents[:, :3] / 0.9 / 2, small, atol=1e-5)
    assert 0.8 < latents[:, :3].std() < 1.2


def test_a_part_of_the_scenes_is_those_scenes(scenes):
    mask = torch.zeros(len(scenes), dtype=torch.bool)
    mask[[2, 7]] = True
    assert torch.equal(scenes[mask].noun, scenes.noun[[2, 7]])
    assert len(scenes[10:13]) == 3
