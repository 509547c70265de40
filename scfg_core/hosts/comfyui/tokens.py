"""The words of a prompt, as ComfyUI's tokenizers split it: the text of the whole word behind every token."""

import re
from collections.abc import Sequence
from typing import Any

from .prompts import START_TOKENS, WORDS

_EMBEDDING = re.compile(r"embedding:\s*([^\s,:()]+)")
_END_OF_WORD, _BEGINNING_OF_WORD = "</w>", "▁"


def words_of_prompt(clip: Any, text: str) -> dict[str, Any]:
    """What to put on a CONDITIONING of `text`: (texts, words) of every token, and the START of every chunk.

    Empty where the tokenizer does not tell which tokens are words; everything works without, and tokens are
    numbered.
    """
    tokenized = clip.tokenize(text, return_word_ids=True)
    chunks = next(iter(tokenized.values())) if isinstance(tokenized, dict) else tokenized
    if not all(len(token) == 3 for chunk in chunks for token in chunk):
        return {}
    embeddings = _Embeddings(clip, text)
    texts: list[str] = []
    words: list[int] = []
    starts: list[int] = []
    for chunk in chunks:
        if chunk and chunk[0][2] == 0:
            starts.append(len(texts))
        pieces, ids = _pieces(clip, chunk), [token[2] for token in chunk]
        _name(pieces, ids, _words(pieces, ids), embeddings, texts, words)
    return {WORDS: (tuple(texts), tuple(words)), START_TOKENS: tuple(starts)}


def _pieces(clip: Any, chunk: Sequence[tuple]) -> list[str | None]:
    """The tokenizer's text of every token; None for the vector of an embedding."""
    plain = [token for token in chunk if isinstance(token[0], int)]
    texts = iter([text for _, text in clip.tokenizer.untokenize(plain)])
    return [next(texts) if isinstance(token[0], int) else None for token in chunk]


def _words(pieces: Sequence[str | None], ids: Sequence[int]) -> list[int]:
    """Number of the word that each token of a chunk belongs to; −1 for START, END and padding (id 0)."""
    numbers: list[int] = []
    word, open_word = -1, False
    marked = any(piece and piece.endswith(_END_OF_WORD) for piece in pieces)
    for index, (piece, group) in enumerate(zip(pieces, ids, strict=True)):
        if group == 0:
            numbers.append(-1)
            open_word = False
            continue
        same_group = index > 0 and ids[index - 1] == group
        if piece is None:
            joined = same_group and pieces[index - 1] is None
        elif marked:
            joined = open_word
        else:
            joined = same_group and not piece.startswith(_BEGINNING_OF_WORD)
        word += not joined
        numbers.append(word)
        open_word = piece is not None and marked and not piece.endswith(_END_OF_WORD)
    return numbers


class _Embeddings:
    """The names of a prompt's embeddings; one keeps its name across chunks, those that the host does not have get
    none."""

    def __init__(self, clip: Any, text: str) -> None:
        tokenizers = [part for part in vars(clip.tokenizer).values() if hasattr(part, "_try_get_embedding")]
        loaders = [part for part in tokenizers if getattr(part, "embedding_directory", None) is not None]
        names = _EMBEDDING.findall(text)
        if loaders:
            names = [name for name in names if loaders[0]._try_get_embedding(name)[0] is not None]
        self._names = iter(names)
        self._known: dict[int, str] = {}

    def name(self, word_id: int) -> str:
        """Name of the embedding whose vectors have this word id."""
        if word_id not in self._known:
            self._known[word_id] = next(self._names, "embedding")
        return self._known[word_id]


def _byte_of() -> dict[str, int]:
    """Byte-level BPE writes every byte as one printable character: GPT-2's table, which CLIP's tokenizer shares."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _byte_of()


def _decoded(word: str) -> str:
    """The text of a word of byte-level pieces; a piece of something else stays as it is."""
    if not all(character in _BYTES for character in word):
        return word
    return bytes(_BYTES[character] for character in word).decode("utf-8", errors="replace")


def _name(
    pieces: Sequence[str | None],
    ids: Sequence[int],
    groups: Sequence[int],
    embeddings: _Embeddings,
    texts: list[str],
    words: list[int],
) -> None:
    """Append the whole word and its number to `texts` and `words`, for every token of a chunk."""
    byte_level = any(piece and piece.endswith(_END_OF_WORD) for piece in pieces)
    first = max(words, default=-1) + 1
    spelled: dict[int, str] = {}
    named: dict[int, str] = {}
    for piece, word_id, group in zip(pieces, ids, groups, strict=True):
        if piece is None:
            named[group] = embeddings.name(word_id)
        elif group >= 0:
            bare = piece.removesuffix(_END_OF_WORD).removeprefix(_BEGINNING_OF_WORD)
            spelled[group] = spelled.get(group, "") + bare
    if byte_level:
        spelled = {group: _decoded(word) for group, word in spelled.items()}
    spelled |= named
    ended = False
    for index, group in enumerate(groups):
        if group >= 0:
            texts.append(spelled[group])
            words.append(first + group)
            continue
        is_start = index == 0
        texts.append("<start>" if is_start else "<pad>" if ended else "<end>")
        words.append(-1)
        ended = ended or not is_start
