"""Phrases of a prompt."""

import re
from dataclasses import replace

import pytest

from scfg_core import Prompt
from scfg_core.run.phrases import phrases_of, phrases_with

TAGS = "1girl, long hair, looking at viewer, the legend of zelda, score_9"


def prompt(text: str, first_label: int = 0) -> Prompt:
    """A prompt of one token per word or mark, between START, END and padding."""
    pieces = re.findall(r"\w+|[^\w\s]", text)
    words = (-1, *range(len(pieces)), -1, -1)
    read = Prompt.plain("cond", len(words), (0,), ("<start>", *pieces, "<end>", "<pad>"), words)
    return replace(read, first_label=first_label)


def named(*prompts: Prompt) -> list[str]:
    return [phrase.text for phrase in phrases_of(prompts)]


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        ("a yellow tent and a blue house on grass at noon", ["yellow tent", "blue house", "grass", "noon"]),
        ("a red star, at night", ["red star", "night"]),
        ("A Cat. The Dog; a bird: red | blue", ["Cat", "Dog", "bird", "red", "blue"]),
        ("一只猫，红色", ["一只猫", "红色"]),
        ("a red-hat man, don't", ["red hat man", "don t"]),
        ("a photo of a 😀", ["photo", "😀"]),
        ("of the", []),
        (", ,", []),
        ("", []),
    ],
)
def test_a_phrase_is_a_run_of_words_between_separators_and_function_words(text, phrases):
    assert named(prompt(text)) == phrases


def test_tags_are_cut_at_commas_alone():
    assert named(prompt(TAGS)) == ["1girl", "long hair", "looking at viewer", "legend", "zelda", "score_9"]


def test_long_parts_and_parts_with_an_article_are_sentences_among_tags_too():
    text = "portrait of a man with red hair, castle, a cat on grass, hand on hip"
    assert named(prompt(text)) == ["portrait", "man", "red hair", "castle", "cat", "grass", "hand on hip"]


def test_few_parts_are_a_sentence():
    assert named(prompt("cat on grass, night")) == ["cat", "grass", "night"]


def test_labels_are_those_of_all_tokens_of_a_phrase():
    read = Prompt.plain(
        "cond", 7, (0,), ("<start>", "red", "hippo", "hippo", "on", "grass,", "<end>"), (-1, 0, 1, 1, 2, 3, -1)
    )
    found = phrases_of([replace(read, first_label=10)])
    assert [(phrase.text, phrase.labels) for phrase in found] == [("red hippo", (11, 12, 13)), ("grass,", (15,))]


def test_a_mark_at_the_end_of_a_word_separates():
    read = Prompt.plain("cond", 2, (), ("grass,", "sky"), (0, 1))
    assert named(read) == ["grass,", "sky"]


def test_a_phrase_goes_on_in_the_next_chunk():
    words = ("<start>", "red", "<end>", "<start>", "star", "<end>")
    read = Prompt.plain("cond", 6, (0, 3), words, (-1, 0, -1, -1, 1, -1))
    assert [(phrase.text, phrase.labels) for phrase in phrases_of([read])] == [("red star", (1, 4))]


def test_a_second_encoder_adds_its_tokens_to_the_phrases_of_the_first():
    """SD 3: the words of T5 have the numbers of CLIP's; what T5 alone cuts so has a number of its own."""
    texts = ("<start>", "red", "star", "on", "hill", "<end>", "red", "'", "star", "on", "hill", "top", "<end>")
    words = (-1, 0, 1, 2, 3, -1, 0, 4, 1, 2, 3, 5, -1)
    found = phrases_of([Prompt.plain("cond", 13, (0,), texts, words)])
    assert [(phrase.text, phrase.labels) for phrase in found] == [
        ("red star", (1, 2, 6, 8)),
        ("hill", (4, 10, 11)),
    ]


def test_phrases_are_those_of_an_entry_and_a_word_is_found_in_every_one():
    first = prompt("a red star and a cat")
    prompts = [first, prompt("a star, a dog", first.num_tokens)]
    assert named(*prompts) == ["red star", "cat", "star", "dog"]
    assert phrases_with("Star", prompts) == (0, 2)
    assert phrases_with("red star", prompts) == (0,)
    assert phrases_with("star and a cat", prompts) == (0, 1)
    assert phrases_with("and", prompts) == phrases_with("zebra", prompts) == ()


def test_without_words_there_are_no_phrases():
    assert phrases_of([Prompt.plain("cond", 5)]) == ()
