"""The demo model's tokenizer and text encoder. Needs torch and einops alone."""

from __future__ import annotations

import re

import torch
from einops import rearrange
from torch import Tensor, nn

from .words import END, LENGTH, PAD, START, VOCABULARY, WORDS


class UnknownWordError(ValueError):
    """A prompt has a word that the demo model never learned."""


def split(prompt: str) -> list[str]:
    """A prompt's words in order, known or not."""
    return re.findall(r"[^\W\d_]+", prompt.lower())


def phrases(words: list[str]) -> list[list[str]]:
    """A caption's words by what they name: "a red house on the left", "and", "a white cat", "on snow"."""
    found: list[list[str]] = []
    for place, word in enumerate(words):
        says_where = words[place : place + 2] == ["on", "the"]
        begins = word in ("a", "an", "and", "at", "in", "on") and not says_where
        if begins or not found:
            found.append([])
        found[-1].append(word)
    return found


class Tokenizer:
    """Words to ids: START, the words, END, then PAD up to `LENGTH`. Case and punctuation do not matter."""

    vocabulary = VOCABULARY
    length = LENGTH

    def __init__(self) -> None:
        self._ids = {word: index for index, word in enumerate(VOCABULARY)}

    def __call__(self, prompts: list[str]) -> Tensor:
        """Token ids of the prompts: (B, 24), int64."""
        rows = [[START, *(self._ids[word] for word in self.words(prompt)), END] for prompt in prompts]
        return torch.tensor([row + [PAD] * (LENGTH - len(row)) for row in rows])

    def words(self, prompt: str) -> list[str]:
        """The prompt's words in order. Raises `UnknownWordError`, or ValueError when there are too many."""
        words = split(prompt)
        unknown = [word for word in words if word not in WORDS]
        if unknown:
            raise UnknownWordError(
                f"the demo model does not know {', '.join(map(repr, unknown))}; it knows: {', '.join(WORDS)}"
            )
        if len(words) > LENGTH - 2:
            raise ValueError(f"a prompt may have {LENGTH - 2} words, this one has {len(words)}")
        return words


class TextEncoder(nn.Module):
    """Words to vectors that hardly mix: each word sees its nearest neighbours once, and nothing else.

    A colour is so bound to its noun and a noun to its place, yet every word keeps to itself and owns its own
    region of the image. END and PAD are zero, so no word can hide its meaning in them. START is a constant in
    a channel of its own, in which all words stand against it: what draws the attention to any word pushes it
    away from START, whether or not there is a word to take it.
    """

    against_start = -0.5

    def __init__(self, width: int = 64, hidden: int = 128, reach: int = 3) -> None:
        super().__init__()
        inner = width - 1
        self.length = inner**0.5
        self.word = nn.Embedding(len(VOCABULARY), inner)
        self.neighbours = nn.Conv1d(inner, hidden, 2 * reach + 1, padding=reach)
        self.bind = nn.Linear(hidden, inner)
        self.norm = nn.LayerNorm(inner)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, L) int64 → context (B, L, width): channel 0 is START against words, the rest words."""
        is_word = (ids > PAD).unsqueeze(-1)
        x = self.word(ids) * is_word
        near = self.neighbours(rearrange(x, "b l c -> b c l"))
        x = x + self.bind(nn.functional.gelu(rearrange(near, "b c l -> b l c")))
        x = self.norm(x) * is_word
        start = (ids == START).unsqueeze(-1) + self.against_start * is_word
        return torch.cat([self.length * start, x], -1)
