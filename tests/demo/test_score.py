"""The judge: right about true pictures, unmoved by wrong ones."""

from dataclasses import replace

import pytest
import torch

from demo.score import score
from demo.world import COLOURS, SHAPES, Description, draw


@pytest.fixture(scope="module")
def scenes():
    return draw(60, seed=11)


def share(scores, of):
    answers = [a for s in scores for a in of(s)]
    return sum(answers) / len(answers)


def changed(scenes, **what):
    return [
        replace(d, phrases=tuple(replace(p, **{k: f(p) for k, f in what.items()}) for p in d.phrases))
        for d in scenes
    ]


def test_true_pictures_are_right(scenes):
    told = [replace(d, background=int(b)) for d, b in zip(scenes.descriptions, scenes.backgrounds, strict=True)]
    scores = score(scenes.images, told)
    assert share(scores, lambda s: s.phrases) >= 0.99
    assert all(s.background for s in scores)


def test_another_shape_is_wrong(scenes):
    for step in range(1, len(SHAPES)):
        told = changed(scenes.descriptions, shape=lambda p, step=step: (p.shape + step) % len(SHAPES))
        assert share(score(scenes.images, told), lambda s: s.phrases) == 0


def test_another_colour_is_wrong(scenes):
    absent = [
        next(c for c in range(len(COLOURS)) if c != b and c not in {p.colour for p in d.phrases})
        for d, b in zip(scenes.descriptions, scenes.backgrounds.tolist(), strict=True)
    ]
    told = [
        Description(tuple(replace(p, colour=c) for p in d.phrases), d.background)
        for d, c in zip(scenes.descriptions, absent, strict=True)
    ]
    assert share(score(scenes.images, told), lambda s: s.phrases) < 0.02


def test_another_background_is_wrong(scenes):
    told = [
        replace(d, background=(int(b) + 1) % 8)
        for d, b in zip(scenes.descriptions, scenes.backgrounds, strict=True)
    ]
    assert not any(s.background for s in score(scenes.images, told))


def test_a_background_that_was_not_asked_for_is_not_judged(scenes):
    told = [replace(d, background=None) for d in scenes.descriptions]
    assert all(s.background is None for s in score(scenes.images, told))


def test_noise_shows_nothing(scenes):
    noise = torch.rand(scenes.images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert share(score(noise, scenes.descriptions), lambda s: s.phrases) == 0


def test_pictures_of_another_size_are_refused(scenes):
    with pytest.raises(ValueError, match="32x32"):
        score(torch.zeros(1, 3, 64, 64), scenes.descriptions[:1])
