"""The words of a prompt, as ComfyUI's tokenizers split it: the text of the whole word behind every token."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from .encoders import Encoder, columns_of, number_alike
from .prompts import START_TOKENS, WORDS

_EMBEDDING = re.compile(r"embedding:\s*([^\s,:()]+)")
_END_OF_WORD, _BEGINNING_OF_WORD, _SPACE, _LINE = "</w>", "▁", "Ġ", "Ċ"
_UNKNOWN, _CUT = "<unk>", "\N{REPLACEMENT CHARACTER}"


def words_of_prompt(clip: Any, text: str) -> dict[str, Any]:
    """What to put on a CONDITIONING of `text`: (texts, words) of every token, and the START of every chunk.

    Empty where the tokenizer does not tell which tokens are words; everything works without, and tokens are
    numbered.
    """
    encoders = columns_of(clip, clip.tokenize(text, return_word_ids=True))
    if not all(len(token) == 3 for encoder in encoders for chunk in encoder.chunks for token in chunk):
        return {}
    texts: list[str] = []
    words: list[int] = []
    starts: list[int] = []
    for encoder in encoders:
        embeddings = _Embeddings(clip, text)
        own_texts: list[str] = []
        own_words: list[int] = []
        empty = encoder.of(clip.tokenize("", return_word_ids=True))
        for chunk in encoder.chunks:
            if encoder.has_start and chunk and chunk[0][2] == 0:
                starts.append(len(texts) + len(own_texts))
            pieces, ids = _pieces(encoder, chunk), [token[2] for token in chunk]
            if _is_byte_level(pieces):
                _name_templated(encoder, chunk, empty[0], own_texts, own_words)
            else:
                groups = _words(pieces, ids)
                _name(pieces, ids, groups, embeddings, encoder.has_start, own_texts, own_words)
        words += number_alike(texts, words, own_texts, own_words)
        texts += own_texts
    return {WORDS: (tuple(texts), tuple(words)), START_TOKENS: tuple(starts)} if texts else {}


def _pieces(encoder: Encoder, chunk: Sequence[tuple]) -> list[str | None]:
    """The tokenizer's text of every token; None for the vector of an embedding."""
    plain = [token for token in chunk if isinstance(token[0], int)]
    texts = iter([text for _, text in encoder.tokenizer.untokenize(plain)])
    return [next(texts) if isinstance(token[0], int) else None for token in chunk]


def _is_byte_level(pieces: Sequence[str | None]) -> bool:
    """Whether pieces are written as Qwen's are: a space is Ġ, at the beginning of a word."""
    marked = any(piece and piece.endswith(_END_OF_WORD) for piece in pieces)
    return not marked and any(piece and (piece[0] in (_SPACE, _LINE)) for piece in pieces)


def _name_templated(
    encoder: Encoder, chunk: Sequence[tuple], empty: Sequence[tuple], texts: list[str], words: list[int]
) -> None:
    """Append whole words and their numbers; what an empty prompt has as well is of the template, and no word."""
    body = sum(token[2] != 0 for token in chunk)  # padding follows
    own, template = ([token[0] for token in tokens if token[2] != 0] for tokens in (chunk, empty))
    before = _common(own, template)
    behind = min(_common(own[::-1], template[::-1]), len(template) - before, len(own) - before)
    pieces = _pieces(encoder, chunk)
    number, spelled, numbers = -1, {}, []
    for place, piece in enumerate(pieces):
        if not before <= place < body - behind or piece is None or not piece.strip(_SPACE + _LINE):
            numbers.append(-1)
            continue
        bare = piece.lstrip(_SPACE + _LINE)
        if not (bare == piece and numbers[-1] >= 0 and _continues(_decoded(spelled[number]), _decoded(bare))):
            number += 1
        spelled[number] = spelled.get(number, "") + bare
        numbers.append(number)
    for place, word in enumerate(numbers):
        texts.append(_decoded(spelled[word]) if word >= 0 else "<template>" if place < body else "<pad>")
        words.append(word)


def _common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many of the first elements are equal."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _continues(before: str, piece: str) -> bool:
    """Whether a piece goes on with a word: letters or digits behind such, or the rest of a letter's bytes.

    Where a language writes no spaces, the encoder's pieces are what comes closest to words.
    """
    if before[-1] == _CUT:
        return True
    last, first = before[-1], piece[0]
    return last.isalnum() and first.isalnum() and not (_has_no_spaces(last) and _has_no_spaces(first))


def _has_no_spaces(sign: str) -> bool:
    """Whether a letter is Chinese or Japanese, which are written without spaces; Korean is not."""
    return unicodedata.east_asian_width(sign) in "WF" and not unicodedata.name(sign, "").startswith("HANGUL")


def _words(pieces: Sequence[str | None], ids: Sequence[int]) -> list[int]:
    """Number of the word that each token of a chunk belongs to; −1 for START, END and padding (id 0)."""
    numbers: list[int] = []
    word, open_word, read = -1, False, ""
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
            joined = same_group and not piece.startswith(_BEGINNING_OF_WORD) and _joins(read, piece)
        word += not joined
        numbers.append(word)
        open_word = piece is not None and marked and not piece.endswith(_END_OF_WORD)
        read = piece or ""
    return numbers


def _joins(before: str, piece: str) -> bool:
    """Whether a piece of T5's goes on with the word before it: a mark alone, letters, or what T5 does not know."""
    if before in ("", _BEGINNING_OF_WORD) or _UNKNOWN in (before, piece):
        return bool(before)
    return _continues(before, piece)


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
    has_start: bool,
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
        is_start = has_start and index == 0
        texts.append("<start>" if is_start else "<pad>" if ended else "<end>")
        words.append(-1)
        ended = ended or not is_start
