"""Regions of phrases: which phrase of the prompts owns each patch, and masks of them.

    Ĉ[s, p] = mean over the tokens i of p of Ĉ[s, i]                 a phrase counts as one token
    p_s = argmax_p Ĉ[s, p]                                           over the phrases and START

Every Ĉ[·, i] has spatial mean 1, and so has that of a phrase: a sum would give the image to the longest one. START
is what a patch goes to that no phrase wants; END, padding, function words and punctuation own nothing here. A tie
goes to START, then to the first phrase.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor

from ..errors import SettingsError
from ..grid import Grid, nearest
from ..method.assign import assign
from ..method.fusion import TokenMaps
from ..method.guidance import value_of_region
from ..method.segment import UNOWNED, Segmentation
from ..precision import constant, full_precision
from ..prompt import Prompt
from .masks import drop_small_parts, labels_of_scores
from .phrases import phrases_of, phrases_with
from .words import labels_of, words_in

Scope = Literal["phrase", "word"]
"""What a word stands for: the whole phrase that it belongs to, or its own tokens."""

SCOPES: tuple[Scope, ...] = get_args(Scope)


def check_scope(scope: str) -> None:
    """Raises `SettingsError` where there is no such scope."""
    if scope not in SCOPES:
        raise SettingsError(f"expected a scope of {', '.join(SCOPES)}, got {scope!r}: choose one of these")


def word_mask(
    found: Segmentation | TokenMaps,
    prompts: Sequence[Prompt],
    words: Sequence[str],
    size: Grid,
    *,
    scope: Scope = "phrase",
    min_region: float = 0.0,
) -> Tensor:
    """Hard mask (B, size.h, size.w) fp32 of some words or phrases of the prompts: 1 where they win, else 0.

    found       one evaluation's segmentation, or scores Ĉ (B, n, K) with a column per label (`Run.mean_scores`).
    prompts     the positive entries, in label order.
    scope       what wins: the whole "phrase" that has the word, among all phrases, or the "word" among all tokens.
    size        of the mask, with as many frames as `found`.
    min_region  share of the image, 0…1: smaller parts and holes are dropped (`drop_small_parts`); 0 = none.

    Nothing here waits for the device. A word that is not in the prompts, or in no phrase, owns nothing.
    """
    regions = regions_of(found, prompts, scope)
    wanted = [index for word in words for index in indices_of(word, prompts, scope)]
    mask = value_of_region(regions, dict.fromkeys(wanted, 1.0), other=0.0)
    if min_region > 0:
        mask = drop_small_parts(mask > 0, min_region, size.frames).float()
    return nearest(mask, size)


def indices_of(word: str, prompts: Sequence[Prompt], scope: Scope) -> tuple[int, ...]:
    """Regions of `regions_of` that belong to a word; () = none."""
    return phrases_with(word, prompts) if scope == "phrase" else labels_of(word, prompts)


def known_words(words: str, prompts: Sequence[Prompt], scope: Scope = "phrase") -> list[str]:
    """The words and phrases of a list with commas.

    Raises `SettingsError` if the prompts have no words, or none that are known, or one of these is not in them, or
    in no phrase.
    """
    read = [text for prompt in prompts for text, _ in prompt.words_with_labels()]
    if not read and prompts and all(any(prompt.texts) for prompt in prompts):
        raise SettingsError("expected a prompt with words, got an empty one: write some in S-CFG Text Encode")
    if not read:
        raise SettingsError(
            "expected a prompt with known words, got numbered tokens: encode it with S-CFG Text Encode"
        )
    given = words_in(words)
    missing = [word for word in given if not indices_of(word, prompts, scope)]
    if missing or not given:
        got = ", ".join(map(repr, missing)) or "none"
        choice = [word for word in dict.fromkeys(read) if indices_of(word, prompts, scope)]
        raise SettingsError(f"expected words of the prompt, got {got}: use some of {', '.join(choice)}")
    return given


def regions_of(found: Segmentation | TokenMaps, prompts: Sequence[Prompt], scope: Scope) -> Tensor:
    """(B, h, w) int64: the phrase (index in `phrases_of`) or token (label) that owns each patch, else `UNOWNED`.

    A segmentation without scores, whose regions are the caller's, gives each patch to the phrase of its token.
    """
    if isinstance(found, TokenMaps):
        if scope == "word":
            return labels_of_scores(found)
        return phrase_regions(found.values, range(found.values.shape[-1]), prompts, found.grid)
    if scope == "word":
        return found.labels
    if found.scores is None:
        phrases = phrases_of(prompts)
        owner = {label: float(index) for index, phrase in enumerate(phrases) for label in phrase.labels}
        return value_of_region(found.labels, owner, other=float(UNOWNED)).long()
    columns = [label for labels in found.score_labels for label in labels]
    regions = phrase_regions(found.scores, columns, prompts, found.grid)
    return torch.where(found.labels == UNOWNED, constant(UNOWNED, regions.dtype, regions.device), regions)


def phrase_regions(scores: Tensor, labels: Sequence[int], prompts: Sequence[Prompt], grid: Grid) -> Tensor:
    """(B, h, w) int64: the phrase of `phrases_of(prompts)` that owns each patch; `UNOWNED` = START, or nobody.

    scores  Ĉ (B, h·w, K); labels: those of its K columns.
    """
    pooling, others = _pooling(tuple(labels), tuple(prompts), scores.dtype, scores.device)
    winner = assign(_product(scores, pooling)) - others
    return rearrange(winner.clamp_(min=UNOWNED), "b (h w) -> b h w", h=grid.h)


_product = full_precision(torch.matmul)


@lru_cache(maxsize=16)
def _pooling(
    labels: tuple[int, ...], prompts: tuple[Prompt, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, int]:
    """(K, 1 + S + P): from columns to nobody, S STARTs and the means of P phrases; and 1 + S."""
    column = {label: place for place, label in enumerate(labels)}
    starts = [prompt.first_label + prompt.start_tokens[0] for prompt in prompts if prompt.start_tokens]
    groups = [(), *([start] for start in starts), *(phrase.labels for phrase in phrases_of(prompts))]
    pooling = torch.zeros(len(labels), len(groups), dtype=dtype, device=device)
    for place, group in enumerate(groups):
        columns = [column[label] for label in group if label in column]
        for row in columns:  # one by one: indexing with a list would make a GPU wait
            pooling[row, place] = 1 / len(columns)
    return pooling, 1 + len(starts)
