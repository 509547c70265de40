"""Regions of phrases, and masks of them, against loops."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import label

from scfg_core import Grid, Prompt, Segmentation, SettingsError, TokenMaps
from scfg_core.method.guidance import value_of_region
from scfg_core.prompt import number_labels
from scfg_core.run.masks import drop_small_parts
from scfg_core.run.phrases import phrases_of
from scfg_core.run.regions import check_scope, phrase_regions, regions_of, word_mask

from .test_phrases import prompt
from .waits import Waits

TEXT = "a very red star and a blue cat on grass"
GRID = Grid(5, 7)


def scores_of(prompts, seed=0, images=2):
    """Random Ĉ with a column per owner of every prompt, and their labels."""
    labels = tuple(tuple(read.first_label + column for column in read.owners) for read in prompts)
    columns = sum(map(len, labels))
    values = torch.rand(images, GRID.area, columns, generator=torch.Generator().manual_seed(seed)) ** 3
    return values / values.mean(dim=1, keepdim=True), labels


def looked_for(values, columns, prompts):
    """The same by loops, in float64."""
    place = {found: column for column, found in enumerate(columns)}
    regions = np.empty(values.shape[:2], dtype=int)
    for image, cell in np.ndindex(*regions.shape):
        row = values[image, cell].double().numpy()
        best, winner = 0.0, -1
        for read in prompts:
            start = row[place[read.first_label + read.start_tokens[0]]] if read.start_tokens else 0.0
            best = max(best, start)
        for number, phrase in enumerate(phrases_of(prompts)):
            mean = sum(row[place[found]] for found in phrase.labels) / len(phrase.labels)
            if mean > best * (1 + 1e-6):
                best, winner = mean, number
        regions[image, cell] = winner
    return regions.reshape(-1, GRID.h, GRID.w)


@pytest.mark.parametrize("count", [1, 3])
def test_a_patch_belongs_to_the_phrase_whose_tokens_have_the_highest_mean(count):
    prompts = number_labels([prompt(TEXT)] * count)
    values, labels = scores_of(prompts)
    columns = [found for entry in labels for found in entry]
    regions = phrase_regions(values, columns, prompts, GRID)
    assert regions.numpy().tolist() == looked_for(values, columns, prompts).tolist()
    assert set(regions.unique().tolist()) >= {-1, 0, 1, 2}


def test_the_longest_phrase_does_not_win_for_its_length():
    read = prompt("very big bright red star, cat")
    values, (columns,) = scores_of([read])
    values[:] = 1.0
    values[:, 3, columns.index(read.first_label + 7)] = 1.2
    regions = phrase_regions(values, columns, [read], GRID).flatten(1)
    assert phrases_of([read])[1].text == "cat"
    assert (regions[:, 3] == 1).all() and (regions[:, :3] == -1).all(), "a tie goes to START"


def test_end_padding_and_function_words_own_nothing():
    read = prompt("a star on grass")
    values, (columns,) = scores_of([read])
    expected = phrase_regions(values, columns, [read], GRID)
    for column, (text, role) in enumerate(zip(read.texts, read.roles, strict=True)):
        if text in ("a", "on", "<end>", "<pad>"):
            assert role == "word"
            values[..., column] = 100.0
    assert torch.equal(phrase_regions(values, columns, [read], GRID), expected)


def test_a_patch_of_nobody_stays_so_without_start():
    read = Prompt.plain("cond", 2, (), ("red", "star"), (0, 1))
    values = torch.ones(1, GRID.area, 2)
    values[:, 4] = 0
    regions = phrase_regions(values, (0, 1), [read], GRID).flatten()
    assert regions.tolist() == [-1 if cell == 4 else 0 for cell in range(GRID.area)]


def segmentation(read, values, columns):
    labels = torch.tensor(columns)[values.argmax(dim=-1)].reshape(-1, GRID.h, GRID.w)
    labels[0, 0, 0] = -1
    return Segmentation(labels, torch.ones_like(labels, dtype=torch.bool), scores=values, score_labels=(columns,))


def test_a_segmentation_and_the_mean_of_a_run_give_the_same_regions_but_where_no_prompt_acts():
    read = prompt(TEXT)
    values, (columns,) = scores_of([read])
    seen, mean = segmentation(read, values, columns), TokenMaps(values, GRID, renormalised=True)
    ours, theirs = regions_of(seen, [read], "phrase"), regions_of(mean, [read], "phrase")
    assert ours[0, 0, 0] == -1
    assert torch.equal(ours.flatten()[1:], theirs.flatten()[1:])
    assert torch.equal(regions_of(seen, [read], "word"), seen.labels)


def test_regions_of_the_callers_own_go_to_the_phrase_of_their_token():
    read = prompt("a red star on grass")
    labels = torch.tensor([[[0, 1, 2, 3], [4, 5, 6, -1]]])
    given = Segmentation(labels, torch.ones_like(labels, dtype=torch.bool))
    assert regions_of(given, [read], "phrase").tolist() == [[[-1, -1, 0, 0], [-1, 1, -1, -1]]]


def test_a_mask_of_a_word_is_that_of_its_phrase_or_of_its_tokens():
    read = prompt(TEXT)
    values, (columns,) = scores_of([read])
    seen, size = segmentation(read, values, columns), Grid(10, 14)
    phrase = word_mask(seen, [read], ["star", "zebra"], size)
    assert phrase.dtype == torch.float32 and phrase.shape == (2, 10, 14)
    assert torch.equal(phrase, word_mask(seen, [read], ["red"], size))
    assert torch.equal(phrase[:, ::2, ::2] == 1, regions_of(seen, [read], "phrase") == 0)
    word = word_mask(seen, [read], ["star"], size, scope="word")
    assert torch.equal(word[:, ::2, ::2] == 1, seen.labels == 4)
    assert word_mask(seen, [read], [], size).sum() == 0


@pytest.mark.parametrize("scope", ["phrase", "word"])
def test_masks_never_wait_for_the_device(scope):
    read = prompt(TEXT)
    values, (columns,) = scores_of([read])
    seen = segmentation(read, values, columns)
    away = Segmentation(
        seen.labels.to("meta"), seen.foreground.to("meta"), scores=values.to("meta"), score_labels=(columns,)
    )
    with Waits() as waits:
        word_mask(away, [read], ["star", "grass"], Grid(10, 14), scope=scope, min_region=0.1)
    assert waits.found == []


def test_a_table_has_every_region_and_another_value_for_the_rest():
    regions = torch.tensor([[[-1, 0, 1, 2, 9]]], dtype=torch.int16)
    assert value_of_region(regions, {1: 2.0}, other=0.5).tolist() == [[[0.5, 0.5, 2.0, 0.5, 0.5]]]
    assert value_of_region(regions, {}, other=0.5, dtype=torch.float64).dtype == torch.float64


def test_an_unknown_scope_is_named():
    with pytest.raises(SettingsError, match="expected a scope of phrase, word, got 'sentence'"):
        check_scope("sentence")


def without_small(mask, least):
    """By SciPy: the parts of at least so many cells, and the largest one."""
    found: Any = label(mask)
    parts, count = found
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.isin(parts, np.flatnonzero(sizes >= min(least, sizes.max()))) & mask


def serpentine(h, w):
    mask = np.zeros((h, w), dtype=bool)
    mask[::2] = True
    for row in range(1, h, 2):
        mask[row, -1 if row % 4 == 1 else 0] = True
    return mask


@pytest.mark.parametrize("size", [(16, 16), (64, 48), (1, 37), (37, 1), (1, 1)])
@pytest.mark.parametrize("share", [0.01, 0.05])
def test_small_parts_and_holes_are_dropped(size, share):
    rng = np.random.default_rng(0)
    drawn = [rng.random(size) < density for density in (0.0, 0.1, 0.4, 0.6, 0.9, 1.0)]
    masks = np.stack([*drawn, serpentine(*size), serpentine(*size[::-1]).T])
    least = -(-size[0] * size[1] * share // 1)
    expected = [~without_small(~without_small(mask, least), least) for mask in masks]
    assert np.array_equal(drop_small_parts(torch.from_numpy(masks), share).numpy(), np.stack(expected))


def test_nothing_is_dropped_without_a_share_and_a_small_mask_keeps_its_largest_part():
    mask = torch.zeros(1, 16, 16, dtype=torch.bool)
    mask[0, 2, 2:4] = mask[0, 9, 9] = True
    assert torch.equal(drop_small_parts(mask, 0.0), mask)
    cleaned = drop_small_parts(mask, 0.1)
    assert cleaned.sum() == 2 and not cleaned[0, 9, 9]


def test_parts_that_touch_across_frames_are_two():
    """Two frames of 4×4: one patch at the bottom of the first lies above three of the second."""
    labels = torch.zeros(1, 8, 4, dtype=torch.int64)
    labels[0, 3:7, 3] = 2
    labels[0, :2, :2] = 2
    read = prompt("a star")
    found = Segmentation(labels, labels >= 0)
    kept = word_mask(found, [read], ["star"], Grid(8, 4, frames=2), scope="word", min_region=0.1)
    assert kept[0, 3].sum() == 0 and kept.sum() == 7


def test_a_phrase_of_an_inactive_entry_owns_nothing():
    prompts = number_labels([prompt("a star"), prompt("a cat")])
    values, (columns, _) = scores_of([prompts[0], replace(prompts[0], first_label=0)])
    regions = phrase_regions(values[..., : len(columns)], columns, prompts, GRID)
    assert set(regions.unique().tolist()) == {-1, 0}
