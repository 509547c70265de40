"""Tokenizer and text encoder: fixed length, clear errors, and words that hardly mix."""

import pytest
import torch

from demo.model import END, LENGTH, PAD, START, VOCABULARY, TextEncoder, Tokenizer, UnknownWordError
from demo.world import draw


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return TextEncoder().eval()


def test_a_prompt_becomes_start_words_end_pad():
    ids = Tokenizer()(["a red circle", ""])
    assert ids.shape == (2, LENGTH)
    assert [VOCABULARY[i] for i in ids[0, 1:4]] == ["a", "red", "circle"]
    assert ids[0, 0] == START and ids[0, 4] == END and (ids[0, 5:] == PAD).all()
    assert ids[1, 0] == START and ids[1, 1] == END and (ids[1, 2:] == PAD).all()


def test_case_and_punctuation_do_not_matter():
    tokenizer = Tokenizer()
    assert torch.equal(
        tokenizer(["A red circle, and a Blue square."]), tokenizer(["a red circle and a blue square"])
    )


def test_an_unknown_word_is_named():
    with pytest.raises(UnknownWordError, match="'dog'.*it knows: a, and"):
        Tokenizer()(["a red dog"])


@pytest.mark.parametrize("prompt", ["赤い円", "красный круг", "ein grüner Kreis"])
def test_a_word_of_another_language_is_named_too(prompt):
    with pytest.raises(UnknownWordError, match=prompt.split()[-1].lower()):
        Tokenizer()([prompt])


def test_a_prompt_that_is_too_long_says_how_long_it_may_be():
    with pytest.raises(ValueError, match="18 words, this one has 30"):
        Tokenizer()(["a red circle " * 10])


def test_every_caption_of_the_world_fits():
    captions = [d.caption for d in draw(500, seed=0).descriptions]
    assert Tokenizer()(captions).shape == (500, LENGTH)


def test_start_end_and_pad_are_the_same_in_every_prompt(encoder):
    context = encoder(Tokenizer()(["a red circle", "a blue square and a black cross", ""]))
    assert context.shape == (3, LENGTH, 64)
    assert (context[:, 0] == context[0, 0]).all()
    assert torch.equal(context[0, 4], context[2, 1]) and torch.equal(context[0, 5], context[1, -1])
    assert not torch.equal(context[0, 0], context[0, 4])


def test_a_word_feels_its_neighbours_only(encoder):
    far, near = "a red circle and a blue square and a {} cross", "a red circle and a {} square"
    tokenizer = Tokenizer()
    one, two = encoder(tokenizer([far.format("white"), far.format("black")]))
    assert torch.equal(one[:7], two[:7])
    one, two = encoder(tokenizer([near.format("white"), near.format("black")]))
    assert not torch.allclose(one[6], two[6])
