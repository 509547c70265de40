"""Masks from words against true things."""

from dataclasses import replace

import pytest
import torch

from evaluation.small_model.masks import masks_of, prompt_of, thing_overlaps
from evaluation.small_model.noised import TrueScenes
from scfg_core import Grid, TokenMaps

KINDS = {"word", "phrase", "phrase, clean", "stretched, word", "stretched, phrase"}


@pytest.fixture(scope="module")
def true():
    return TrueScenes.held_out(6, seed=3)


def perfect(true):
    """Ĉ in which the tokens of a thing are highest where it is; words of nobody, START and padding are even."""
    owners, patches = true.token_owners, true.patches.flatten(1)
    scores = (owners[:, None, :] == patches[:, :, None]) * 4.0
    return torch.where(owners[:, None, :] < 0, 1.0, scores)


def test_maps_of_the_true_things_give_masks_of_them(true):
    scores = perfect(true)
    found = thing_overlaps(true, scores)
    assert found.keys() == KINDS
    assert [len(row) for row in found["phrase"]] == true.scenes.present.sum(1).tolist()
    for kind in ("phrase", "stretched, word", "stretched, phrase"):
        assert all(value == 1 for row in found[kind] for value in row), kind
    assert all(value > 0.85 for row in found["phrase, clean"] for value in row)


def test_the_word_alone_loses_its_patches_to_another_word_of_its_phrase(true):
    scores = perfect(true)
    labels = scores.argmax(dim=-1).reshape(-1, 16, 16)
    for overlaps in (thing_overlaps(true, scores), thing_overlaps(true, scores, labels)):
        assert all(value == 0 for row in overlaps["word"] for value in row)
        assert all(value == 1 for row in overlaps["phrase"] for value in row)


def test_a_stray_block_costs_overlap_unless_it_is_dropped(true):
    scores = perfect(true)
    thing = int(true.scenes.present[0].int().argmax())
    corner = next(c for c in (0, 15, 240, 255) if true.patches[0].flatten()[c] != thing)
    scores[0, corner] = torch.where(true.token_owners[0] == thing, 9.0, 0.0)
    one = replace(true, scenes=true.scenes[:1])
    found = thing_overlaps(one, scores)
    assert found["phrase"][0][0] < 1 and found["phrase, clean"][0][0] > found["phrase"][0][0]


def test_a_prompt_has_its_words_in_their_order():
    prompt = prompt_of([0, 3, 4, 1, 2])
    assert prompt.words == (-1, 1, 2, -1, -1) and prompt.start_tokens == (0,)
    masks = masks_of(prompt.texts[1], prompt, TokenMaps(torch.ones(1, 256, 5), Grid(16, 16), renormalised=True))
    assert masks.keys() == KINDS and not masks["phrase"].any()
