"""How well masks from words fit the true things: `python -m evaluation masks` → IoU by step and over all steps.

True images of held-out captions are noised along one schedule, as a sampler would pass through it; at every step
the masks are those that S-CFG Token Mask gives for the noun of each thing: hard ones of the word alone, of its
phrase, and of that without stray blocks; stretched ones above a half, of the word and of all words of its phrase.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from demo.model import DEFAULT, DemoModel
from demo.words import NOUNS, SPECIALS, VOCABULARY
from scfg_core import Grid, Prompt, Segmentation, Settings, TokenMaps, labels_of
from scfg_core.run.masks import soft_mask, stretch
from scfg_core.run.phrases import labels_of_phrases
from scfg_core.run.regions import word_mask

from ..statistics import Figure, mean_of_groups
from .judge import GRID
from .noised import TrueScenes, watch_noised
from .sampling import load_fast, schedule

SIZE, SEED = Grid(GRID, GRID), 12


def masks_of(noun: str, prompt: Prompt, scores: TokenMaps, labels: Tensor | None = None) -> dict[str, Tensor]:
    """Every kind of mask (16, 16) bool of a noun, from Ĉ of one image and the label map (1, 16, 16) of one step."""
    by_word = scores
    if labels is not None:
        by_word = Segmentation(labels.long(), torch.ones_like(labels, dtype=torch.bool))
    clean = Settings.preset("default").min_region
    found = {
        "word": word_mask(by_word, [prompt], [noun], SIZE, scope="word"),
        "phrase": word_mask(scores, [prompt], [noun], SIZE),
        "phrase, clean": word_mask(scores, [prompt], [noun], SIZE, min_region=clean),
        "stretched, word": stretch(soft_mask(scores, labels_of(noun, [prompt]), SIZE)),
        "stretched, phrase": stretch(soft_mask(scores, labels_of_phrases(noun, [prompt]), SIZE)),
    }
    return {kind: mask[0] > 0.5 for kind, mask in found.items()}


def prompt_of(tokens: list[int]) -> Prompt:
    """A caption's prompt, word by word, from its token ids."""
    words = [place if token >= len(SPECIALS) else -1 for place, token in enumerate(tokens)]
    return Prompt.plain("cond", len(tokens), (0,), [VOCABULARY[token] for token in tokens], words)


def thing_overlaps(true: TrueScenes, scores: Tensor, labels: Tensor | None = None) -> dict[str, list[list[float]]]:
    """Per scene, IoU of each thing's patches with the masks of its noun.

    scores (N, 256, L): Ĉ; labels (N, 16, 16): of one step, None = of the scores.
    """
    found: dict[str, list[list[float]]] = {}
    for row, present in enumerate(true.scenes.present.tolist()):
        prompt = prompt_of(true.tokens[row].tolist())
        alone = TokenMaps(scores[row : row + 1], SIZE, renormalised=True)
        overlaps: dict[str, list[float]] = {}
        for thing in (slot for slot, there in enumerate(present) if there):
            noun = NOUNS[int(true.scenes.noun[row, thing])]
            masks = masks_of(noun, prompt, alone, None if labels is None else labels[row : row + 1])
            for kind, mask in masks.items():
                overlaps.setdefault(kind, []).append(_overlap(mask, true.patches[row] == thing))
        for kind, values in overlaps.items():
            found.setdefault(kind, []).append(values)
    return found


def _overlap(one: Tensor, other: Tensor) -> float:
    return float((one & other).sum() / (one | other).sum().clamp(min=1))


def measure(model: DemoModel, true: TrueScenes, steps: int) -> dict[str, Figure]:
    """IoU of the masks at every step of a schedule, and of the average over the steps."""
    figures: dict[str, Figure] = {}
    total = torch.zeros(())
    for t in schedule(model, steps).timesteps.tolist():
        runs = watch_noised(model, true, t, Settings.preset("default"))
        labels = torch.cat([run.evaluations[-1].labels for run in runs])
        scores = torch.cat([maps.values for run in runs if (maps := run.mean_scores()) is not None])
        figures |= _figures(thing_overlaps(true, scores, labels), f"t {t}")
        total = total + scores
    return figures | _figures(thing_overlaps(true, total), "averaged")


def _figures(overlaps: dict[str, list[list[float]]], when: str) -> dict[str, Figure]:
    """The mean of every kind, and what the phrase and the cleaning bring, scene by scene."""
    figures = {f"{kind}, {when}": mean_of_groups(groups) for kind, groups in overlaps.items()}
    for better, worse in (("phrase", "word"), ("phrase, clean", "phrase")):
        pairs = zip(overlaps[better], overlaps[worse], strict=True)
        gains = [[a - b for a, b in zip(ours, theirs, strict=True)] for ours, theirs in pairs]
        figures[f"{better} − {worse}, {when}"] = mean_of_groups(gains)
    return figures


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation masks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=DEFAULT)
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    figures = measure(load_fast(options.weights, "cpu"), TrueScenes.held_out(options.scenes, SEED), options.steps)
    print(f"IoU of masks from words with the true things, {options.scenes} scenes, 95 % intervals")
    for name, figure in figures.items():
        print(f"  {name:<32} {figure}")
