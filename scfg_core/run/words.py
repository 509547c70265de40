"""Words of a prompt and the labels of their tokens."""

import re
from collections.abc import Sequence

from ..errors import SettingsError
from ..prompt import Prompt

COMMAS = "[,，、]"
"""What stands between the words of a list, as a regular expression."""


def labels_of(phrase: str, prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """Labels of all tokens of a word or phrase, wherever it occurs, in any case; () = nowhere.

    Spaces do not count: the encoder may cut "red-hat" or "don't" into several words.
    """
    wanted = _letters(phrase)
    found: list[int] = []
    for prompt in prompts:
        words = [(_letters(text), labels) for text, labels in prompt.words_with_labels()]
        for start in range(len(words)):
            read, labels = "", []
            for text, word_labels in words[start:]:
                read, labels = read + text, [*labels, *word_labels]
                if len(read) >= len(wanted):
                    break
            if wanted and read == wanted:
                found += labels
    return tuple(dict.fromkeys(found))


def words_in(text: str) -> list[str]:
    """The words and phrases of a list with commas, those of Chinese and Japanese among them."""
    return [word.strip() for word in re.split(COMMAS, text) if word.strip()]


def some_words_in(text: str) -> list[str]:
    """The same. Raises `SettingsError` if there is none."""
    words = words_in(text)
    if not words:
        raise SettingsError("expected words of the prompt, got none: write some, separated by commas")
    return words


def _letters(text: str) -> str:
    return "".join(text.casefold().split())
