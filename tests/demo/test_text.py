"""Tokenizer and text encoder: fixed length, clear errors, and words that hardly mix."""

import pytest
import torch

from demo.text import TextEncoder, Tokenizer, UnknownWordError, phrases
from demo.words import END, LENGTH, PAD, START, VOCABULARY


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return TextEncoder().eval()


def test_a_prompt_becomes_start_words_end_pad():
    ids = Tokenizer()(["a red boat", ""])
    assert ids.shape == (2, LENGTH)
    assert [VOCABULARY[token] for token in ids[0, 1:4]] == ["a", "red", "boat"]
    assert ids[0, 0] == START and ids[0, 4] == END and (ids[0, 5:] == PAD).all()
    assert ids[1, 0] == START and ids[1, 1] == END and (ids[1, 2:] == PAD).all()


def test_case_and_punctuation_do_not_matter():
    tokenizer = Tokenizer()
    assert torch.equal(tokenizer(["A red boat, and a Blue cat."]), tokenizer(["a red boat and a blue cat"]))


def test_an_unknown_word_is_named_with_those_that_there_are():
    with pytest.raises(UnknownWordError, match="'dog'.*it knows: a, an, and"):
        Tokenizer()(["a red dog"])


@pytest.mark.parametrize("prompt", ["赤い円", "красный круг", "ein grüner Kreis"])
def test_a_word_of_another_language_is_named_too(prompt):
    with pytest.raises(UnknownWordError, match=prompt.split()[-1].lower()):
        Tokenizer()([prompt])


def test_a_prompt_that_is_too_long_says_how_long_it_may_be():
    with pytest.raises(ValueError, match="22 words, this one has 30"):
        Tokenizer()(["a red boat " * 10])


def test_words_are_phrased_by_what_they_name():
    words = Tokenizer().words("a red house on the left and an orange tree on the right on snow in rain")
    assert [" ".join(phrase) for phrase in phrases(words)] == [
        "a red house on the left",
        "and",
        "an orange tree on the right",
        "on snow",
        "in rain",
    ]
    assert phrases(["red", "cat"]) == [["red", "cat"]]
    assert phrases([]) == []


def test_start_end_and_pad_are_the_same_in_every_prompt(encoder):
    context = encoder(Tokenizer()(["a red boat", "a blue cat and a white moon", ""]))
    assert context.shape == (3, LENGTH, 64)
    assert (context[:, 0] == context[0, 0]).all()
    assert torch.equal(context[0, 4], context[2, 1]) and torch.equal(context[0, 5], context[1, -1])
    assert not torch.equal(context[0, 0], context[0, 4])


def test_a_word_feels_its_neighbours_only(encoder):
    far, near = "a red boat and a blue cat and a {} moon", "a red boat and a {} cat"
    tokenizer = Tokenizer()
    one, two = encoder(tokenizer([far.format("white"), far.format("pink")]))
    assert torch.equal(one[:7], two[:7])
    one, two = encoder(tokenizer([near.format("white"), near.format("pink")]))
    assert not torch.allclose(one[6], two[6])
