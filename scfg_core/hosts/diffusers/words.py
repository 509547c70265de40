"""The words of a prompt, as a pipeline's tokenizers cut it: the text of the whole word behind every text column."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ScfgError
from ..clip import CHUNK
from .models import Model

Names = Callable[[int], tuple[tuple[str, ...], tuple[int, ...]]]
"""Texts and words' numbers, for a number of columns."""

_WORD = re.compile(r"[^\W_]+|\S")
"""Letters and digits that follow each other are a word, and so is every other mark."""


@dataclass(frozen=True)
class Encoder:
    """One text encoder whose tokens are columns.

    tokenizer  name of the pipeline's tokenizer.
    width      how many columns it has; None = those that are left.
    """

    tokenizer: str
    width: int | None = None


ENCODERS: dict[str, tuple[Encoder, ...]] = {
    "UNet": (Encoder("tokenizer"),),
    "SD3": (Encoder("tokenizer", CHUNK), Encoder("tokenizer_3")),
    "Flux": (Encoder("tokenizer_2"),),
}
"""Where a model has others than the pipeline's only one."""


def namer(pipeline: Any, model: Model, text: str) -> Names:
    """What names the columns of `text` in this pipeline. Raises `ScfgError` where its tokenizers cannot."""
    before, behind, cut = _template(pipeline, text)
    encoders = ENCODERS.get(type(model).__name__, (Encoder("tokenizer"),))
    named = []
    for encoder in encoders:
        tokenizer = getattr(pipeline, encoder.tokenizer, None)
        if not getattr(tokenizer, "is_fast", False):
            raise ScfgError(
                f"expected a pipeline with a fast tokenizer to name the words of prompt=…, got "
                f"{type(tokenizer).__name__} as {type(pipeline).__name__}.{encoder.tokenizer}: "
                "describe the tokens in a Prompt, or leave prompt out"
            )
        named.append((encoder.width, _tokens(tokenizer, before, text, behind, cut)))

    def names(columns: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
        texts: list[str] = []
        words: list[int] = []
        for width, (own_texts, own_words) in named:
            room = columns - len(texts) if width is None else min(width, columns - len(texts))
            own_texts, own_words = _fitted(own_texts, own_words, room)
            texts += own_texts
            words += own_words
        return tuple(texts), tuple(words)

    return names


def _template(pipeline: Any, text: str) -> tuple[str, str, int]:
    """What the pipeline puts before and behind the prompt, and how many of the first tokens it cuts off again."""
    template = getattr(pipeline, "prompt_template_encode", None)
    if isinstance(template, str) and "{}" in template:
        before, _, behind = template.partition("{}")
        return before, behind, int(getattr(pipeline, "prompt_template_encode_start_idx", 0))
    if isinstance(getattr(pipeline, "system_prompt", None), str):
        return f"{pipeline.system_prompt} <Prompt Start> ", "", 0
    tokenizer: Any = getattr(pipeline, "tokenizer", None)
    if getattr(tokenizer, "chat_template", None):
        written = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        before, found, behind = written.rpartition(text) if text else (written, "", "")
        if found or not text:
            return before, behind, 0
    return "", "", 0


def _tokens(tokenizer: Any, before: str, text: str, behind: str, cut: int) -> tuple[list[str], list[int]]:
    """Texts and words of the tokens, START, END and the template's among them."""
    whole = before + text + behind
    encoded = tokenizer(whole, return_offsets_mapping=True, return_special_tokens_mask=True)
    found = list(_WORD.finditer(text))
    texts: list[str] = []
    words: list[int] = []
    special: Sequence[int] = encoded["special_tokens_mask"]
    for place, (first, stop) in enumerate(encoded["offset_mapping"]):
        spelled = whole[first:stop]
        first += len(spelled) - len(spelled.lstrip())  # a space may belong to the piece behind it
        first, stop = first - len(before), stop - len(before)
        word = next((n for n, known in enumerate(found) if known.start() < stop and first < known.end()), -1)
        if special[place] and first >= stop:
            texts.append("<start>" if place == 0 else "<end>")
        else:
            texts.append(found[word].group() if word >= 0 else "<template>")
        words.append(-1 if texts[-1].startswith("<") and word < 0 else word)
    return texts[cut:], words[cut:]


def _fitted(texts: Sequence[str], words: Sequence[int], room: int) -> tuple[list[str], list[int]]:
    """So many tokens: what does not fit is cut off before END, and padding fills up."""
    if len(texts) > room:
        ended = room > 0 and bool(texts) and texts[-1] == "<end>"
        kept = room - ended
        return [*texts[:kept], *["<end>"] * ended], [*words[:kept], *[-1] * ended]
    missing = room - len(texts)
    return [*texts, *["<pad>"] * missing], [*words, *[-1] * missing]
