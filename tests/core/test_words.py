"""Words and their labels."""

from dataclasses import replace

import pytest

from scfg_core import Prompt, labels_of


def prompt(first_label, texts, words):
    return replace(Prompt.plain("cond", len(texts), texts=texts, words=words), first_label=first_label)


PROMPT = prompt(
    10,
    ("<start>", "a", "red", "hippopotamus", "hippopotamus", "and", "a", "red", "hat", "<end>"),
    (-1, 0, 1, 2, 2, 3, 4, 5, 6, -1),
)


@pytest.mark.parametrize(
    ("phrase", "labels"),
    [
        ("hat", (18,)),
        ("hippopotamus", (13, 14)),
        ("Red", (12, 17)),
        ("red hippopotamus", (12, 13, 14)),
        (" red   HAT ", (17, 18)),
        ("hat red", ()),
        ("hippo", ()),
        ("", ()),
        ("<start>", ()),
    ],
)
def test_a_phrase_has_the_labels_of_its_tokens(phrase, labels):
    assert labels_of(phrase, [PROMPT]) == labels


def test_a_word_is_found_in_every_entry():
    other = prompt(20, ("<start>", "hat"), (-1, 0))
    assert labels_of("hat", [PROMPT, other]) == (18, 21)


def test_numbered_tokens_have_no_words():
    assert Prompt.plain("cond", 3).words_with_labels() == []
