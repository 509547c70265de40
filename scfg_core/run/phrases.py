"""Phrases of a prompt: what a reader takes for one thing, "red star" in "a red star on the left, at night".

A phrase is a run of words between separators (commas and other marks that end a part of a sentence) and function
words, which belong to no phrase. A list of tags, "1girl, looking at viewer, hand on hip", is cut at separators
alone.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..prompt import Prompt
from .words import labels_of

ARTICLES = frozenset({"a", "an", "the"})
JOINING = frozenset({"and", "or"})
_OTHERS = """
about above across after against along among amid around as at atop before behind below beneath beside between
beyond by down during for from in inside into like near next of off on onto out outside over past than through
throughout to toward towards under underneath until up upon via with within without
but nor so while where when which who whose that
is are was were be being been has have had do does
he she it they we you i his her hers its their my our your this these those there
"""
FUNCTION_WORDS = ARTICLES | JOINING | frozenset(_OTHERS.split())
"""English words that say how others belong together, and name nothing themselves."""

SEPARATORS = frozenset(",;.:!?|/…—–，、。；：！？·")
"""Marks that end a part of a prompt."""

MIN_TAGS = 3
MAX_WORDS_OF_A_TAG = 4
"""A part of at most so many words without an article is a tag, where a prompt has at least `MIN_TAGS` parts."""


@dataclass(frozen=True)
class Phrase:
    """Its words in order, and the labels of all their tokens, ascending; punctuation is left out."""

    text: str
    labels: tuple[int, ...]


def phrases_of(prompts: Sequence[Prompt]) -> tuple[Phrase, ...]:
    """The phrases of all prompt entries, in order; none where the words are not known."""
    return tuple(phrase for prompt in prompts for phrase in _phrases(prompt))


def phrases_with(word: str, prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """Indices in `phrases_of` of every phrase that has a token of a word, wherever it occurs; () = none."""
    wanted = set(labels_of(word, prompts))
    return tuple(i for i, phrase in enumerate(phrases_of(prompts)) if wanted.intersection(phrase.labels))


def labels_of_phrases(word: str, prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """Labels of all tokens of every phrase that has a token of a word, ascending; () = none."""
    phrases = phrases_of(prompts)
    return tuple(sorted({label for index in phrases_with(word, prompts) for label in phrases[index].labels}))


def is_punctuation(word: str) -> bool:
    """Whether a word is made of punctuation alone."""
    return all(sign in SEPARATORS or unicodedata.category(sign).startswith("P") for sign in word)


def _phrases(prompt: Prompt) -> Iterator[Phrase]:
    texts = {word: text for text, word in zip(prompt.texts, prompt.words, strict=True) if word >= 0}
    groups = [group for part in _parts(prompt, texts) for group in part]
    phrase_of = {word: number for number, group in enumerate(groups) for word in group}
    labels: list[list[int]] = [[] for _ in groups]
    for label, number in zip(prompt.labels, _numbers(prompt, texts, phrase_of), strict=True):
        if number >= 0:
            labels[number].append(label)
    for group, found in zip(groups, labels, strict=True):
        yield Phrase(" ".join(texts[word] for word in group), tuple(found))


def _parts(prompt: Prompt, texts: dict[int, str]) -> list[list[list[int]]]:
    """The words of every phrase, by the part of the prompt in which it stands."""
    parts: list[list[int]] = [[]]
    for word in _first_reading(prompt.words):
        if _separates(texts[word]):
            parts.append([])
        elif not is_punctuation(texts[word]):
            parts[-1].append(word)
            if texts[word][-1] in SEPARATORS:
                parts.append([])
    parts = [part for part in parts if part]
    lists_tags = len(parts) >= MIN_TAGS
    return [[part] if lists_tags and _is_tag(part, texts) else _split(part, texts) for part in parts]


def _split(part: Sequence[int], texts: dict[int, str]) -> list[list[int]]:
    """The runs of words between function words."""
    runs: list[list[int]] = [[]]
    for word in part:
        if _is_function_word(texts[word]):
            runs.append([])
        else:
            runs[-1].append(word)
    return [run for run in runs if run]


def _is_tag(part: Sequence[int], texts: dict[int, str]) -> bool:
    return len(part) <= MAX_WORDS_OF_A_TAG and not any(texts[word].casefold() in ARTICLES for word in part)


def _first_reading(words: Sequence[int]) -> list[int]:
    """The words in the order of the prompt; a second encoder (SD 3) reads it once more, from its beginning."""
    read: list[int] = []
    for word in words:
        if word < 0 or (read and word == read[-1]):
            continue
        if read and word < read[-1]:
            break
        read.append(word)
    return read


def _numbers(prompt: Prompt, texts: dict[int, str], phrase_of: dict[int, int]) -> Iterator[int]:
    """The phrase of every token, −1 = none. A word that only a second encoder has goes with the one before it."""
    known, current = set(_first_reading(prompt.words)), -1
    for word in prompt.words:
        if word < 0:
            current = -1
        elif word in known or _is_function_word(texts[word]) or is_punctuation(texts[word]):
            current = phrase_of.get(word, -1)
        yield current


def _separates(word: str) -> bool:
    return is_punctuation(word) and not SEPARATORS.isdisjoint(word)


def _is_function_word(word: str) -> bool:
    return word.strip("".join(SEPARATORS)).casefold() in FUNCTION_WORDS
