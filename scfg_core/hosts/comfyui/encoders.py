"""Which of a CLIP's text encoders the model attends to, and in which order their tokens stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Chunks = Sequence[Sequence[tuple]]


@dataclass(frozen=True)
class Encoder:
    """The tokens of one text encoder.

    key        under which the host's tokenizer returns them; None = there is only one.
    tokenizer  its part of the host's tokenizer.
    chunks     of (token, weight, word id).
    """

    key: str | None
    tokenizer: Any
    chunks: Chunks

    @property
    def has_start(self) -> bool:
        """Whether a chunk of it can begin with START."""
        return getattr(self.tokenizer, "start_token", 0) is not None

    def of(self, tokenized: Any) -> Chunks:
        """Its chunks of another text."""
        return tokenized if self.key is None else tokenized[self.key]


def columns_of(clip: Any, tokenized: Any) -> list[Encoder]:
    """The encoders whose tokens are the model's text columns, in order; [] where that is not known.

    SD 3 attends to CLIP's tokens (both encoders share them), then to T5's; Flux, Chroma, Cosmos and Anima to T5's
    alone; others to those of their first encoder. HiDream and HunyuanVideo mix in a Llama.
    """
    if not isinstance(tokenized, dict):
        return [Encoder(None, clip.tokenizer, tokenized)]
    keys = set(tokenized)
    if "llama" in keys:
        return []
    if {"g", "t5xxl"} <= keys:
        return _sd3(clip, tokenized)
    key = "t5xxl" if "t5xxl" in keys else next(iter(tokenized))
    return [_encoder(clip, key, tokenized[key])]


def _sd3(clip: Any, tokenized: dict[str, Chunks]) -> list[Encoder]:
    """CLIP's chunks, as many as both of its encoders have, then T5's; without those that are not loaded."""
    model = getattr(clip, "cond_stage_model", None)
    loaded = {key: getattr(model, part, True) is not None for key, part in _PARTS.items()}
    used = [key for key in ("g", "l") if loaded[key]]
    encoders = []
    if used:
        count = min(len(tokenized[key]) for key in used)
        encoders.append(_encoder(clip, used[0], tokenized[used[0]][:count]))
    if loaded["t5xxl"]:
        encoders.append(_encoder(clip, "t5xxl", tokenized["t5xxl"]))
    return encoders


_PARTS = {"g": "clip_g", "l": "clip_l", "t5xxl": "t5xxl"}


def _encoder(clip: Any, key: str, chunks: Chunks) -> Encoder:
    whole = getattr(clip, "tokenizer", None)
    part = getattr(whole, _PARTS.get(key, key), None) or getattr(whole, getattr(whole, "clip", key), whole)
    return Encoder(key, part if hasattr(part, "untokenize") else whole, chunks)


def number_alike(
    texts: Sequence[str], words: Sequence[int], other_texts: Sequence[str], other_words: Sequence[int]
) -> list[int]:
    """Numbers for the words of a second encoder: those of the first one where both have the word, new ones else.

    Both read the same prompt, so their words come in one order.
    """
    known: dict[int, str] = {word: text for text, word in zip(texts, words, strict=True) if word >= 0}
    first_new, place = max(known, default=-1) + 1, 0
    numbers: dict[int, int] = {}
    for text, word in zip(other_texts, other_words, strict=True):
        if word < 0 or word in numbers:
            continue
        found = next((n for n in range(place, first_new) if known.get(n, "").casefold() == text.casefold()), None)
        if found is None:
            numbers[word] = max([first_new - 1, *numbers.values()]) + 1
        else:
            numbers[word], place = found, found + 1
    return [numbers[word] if word >= 0 else -1 for word in other_words]
