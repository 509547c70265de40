"""Words that no prompt of a queued workflow can have, known before it runs."""

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from comfy_execution.graph_utils import is_link

from ..scfg_core.errors import SettingsError
from ..scfg_core.run.phrases import FUNCTION_WORDS
from ..scfg_core.run.words import some_words_in
from .queue import Nodes, class_of, current_nodes

ENCODERS: Mapping[str, tuple[str, ...]] = {
    "SCFGTextEncode": ("text",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": ("text_g", "text_l"),
    "CLIPTextEncodeSD3": ("clip_l", "clip_g", "t5xxl"),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl"),
}
"""Nodes that turn texts into conditionings, and these texts."""
FOLLOWING = "SCFGFollowWords"
"""Passes a conditioning on; the words that it names are no text of a prompt."""
TEXTS: Mapping[str, str] = {"PrimitiveString": "value", "PrimitiveStringMultiline": "value"}
"""Nodes whose output is a text of their own."""

_NUMBERED = re.compile(r"token \d+|.*\(.*\).*")
"""Labels of tokens that are no words: “token 5”, “no word (start)”."""
_DYNAMIC = re.compile(r"__|[{}%$]")
"""Signs of a text in which another pack still puts words: wildcards, choices, dates."""
_WEIGHTED = re.compile(r":[\d.]+|[()\[\]]")
"""What gives a part of a word a weight: “(wh:1.1)ite”."""
_MOST_NAMED = 12


def possible_words_in(text: str) -> list[str]:
    """The words of a list with commas. Raises `SettingsError` if there is none, or one that no prompt can have."""
    words = some_words_in(text)
    unknown = unknown_words(words)
    if unknown:
        raise SettingsError(f"expected words of the prompt, got {unknown}")
    return words


def unknown_words(words: Iterable[str]) -> str | None:
    """The words that no prompt of the queued workflow can have, and what to write; None if there are none."""
    return unknown_in(current_nodes() or {}, words)


def unknown_in(nodes: Nodes, words: Iterable[str]) -> str | None:
    """The same of a workflow in API form. None also where one of its prompts is known only when it runs."""
    texts = texts_of(nodes)
    if not texts:
        return None
    written = ["".join(_pieces(each)) for text in texts for each in (text, _WEIGHTED.sub("", text))]
    missing = [word for word in words if not _may_stand_in(word, written)]
    return f"{', '.join(map(repr, missing))}: {_advice(missing, texts)}" if missing else None


def texts_of(nodes: Nodes) -> Sequence[str]:
    """Every text of a prompt in a workflow; () if one of them is known only when it runs."""
    texts: list[str] = []
    for node in nodes.values():
        kind, inputs = node.get("class_type", ""), node.get("inputs") or {}
        if kind in ENCODERS:
            read = [_text(inputs.get(name), nodes) for name in ENCODERS[kind]]
            if None in read or any(_DYNAMIC.search(text) for text in filter(None, read)):
                return ()
            texts += filter(None, read)
        elif kind != FOLLOWING and "CONDITIONING" in _outputs(node):
            sources = [nodes.get(value[0], {}) for value in inputs.values() if is_link(value)]
            if not any("CONDITIONING" in _outputs(source) for source in sources):
                return ()
            texts += [value for value in inputs.values() if isinstance(value, str)]
    return tuple(texts)


def _text(value: Any, nodes: Nodes) -> str | None:
    if not is_link(value):
        return value if isinstance(value, str) else None
    source = nodes.get(value[0], {})
    text = (source.get("inputs") or {}).get(TEXTS.get(source.get("class_type", "")))
    return text if isinstance(text, str) else None


def _outputs(node: Mapping[str, Any]) -> Sequence[str]:
    return getattr(class_of(node), "RETURN_TYPES", None) or ()


def _pieces(text: str) -> list[str]:
    """Its runs of letters and digits: how a tokenizer cuts a text does not count."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())


def _may_stand_in(word: str, written: Sequence[str]) -> bool:
    pieces = _pieces(word)
    return all(any(piece in text for text in written) for piece in pieces) or bool(_NUMBERED.fullmatch(word))


def _advice(missing: Sequence[str], texts: Iterable[str]) -> str:
    known = list(dict.fromkeys(piece for text in texts for piece in _pieces(text)))
    naming = [word for word in known if word not in FUNCTION_WORDS and not word.isdigit()]
    near = list(dict.fromkeys(_nearest(word, known, naming) for word in missing))
    if None in near:
        return f"use some of {', '.join(naming[:_MOST_NAMED])}" if naming else "write words of the prompt"
    return f"did you mean {' and '.join(map(repr, near))}?"


def _nearest(word: str, known: Sequence[str], naming: Sequence[str]) -> str | None:
    """The word with each of its pieces as the prompts write it; None if one is far from all that name something."""
    found: list[str] = []
    for piece in _pieces(word):
        kept = piece in known or piece in FUNCTION_WORDS
        found += [piece] if kept else difflib.get_close_matches(piece, naming, n=1) or [""]
    return " ".join(found) if all(found) else None
