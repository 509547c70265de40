"""Words of a prompt and the labels of their tokens."""

from collections.abc import Sequence

from ..errors import SettingsError
from ..prompt import Prompt


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


def phrases_in(words: str) -> list[str]:
    """The words and phrases of a list with commas."""
    return [phrase.strip() for phrase in words.split(",") if phrase.strip()]


def labels_of_words(words: str, prompts: Sequence[Prompt]) -> list[int]:
    """Labels of all words and phrases of a list with commas, ascending.

    Raises `SettingsError` if the prompts have no known words, or one of these is not among them.
    """
    known = [text for prompt in prompts for text, _ in prompt.words_with_labels()]
    if not known:
        raise SettingsError(
            "expected a prompt with known words, got numbered tokens: encode it with S-CFG Text Encode"
        )
    found = {phrase: labels_of(phrase, prompts) for phrase in phrases_in(words)}
    missing = [phrase for phrase, labels in found.items() if not labels]
    if missing or not found:
        given = ", ".join(map(repr, missing)) or "none"
        named = dict.fromkeys(text for text in known if any(letter.isalnum() for letter in text))
        raise SettingsError(f"expected words of the prompt, got {given}: use some of {', '.join(named)}")
    return sorted({label for labels in found.values() for label in labels})


def _letters(text: str) -> str:
    return "".join(text.casefold().split())
