"""What a mask that follows words should be, by the oracle, and what the host really read at every evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from scfg_core import Settings
from scfg_core.hosts.comfyui import follow_words
from scfg_core.run.follow import FollowWords

from ..core import oracle
from . import host
from .expected import Prompt
from .probe import Probe

WORDS = ["<start>", *(f"w{i}" if i % 2 else "," for i in range(1, 77))]
"""Tags of one word."""

OWNERS = ", ".join(WORDS[1:40:2])
"""Words that own some of the image, and not all of it."""


def base(text: Tensor, **keys: Any) -> list:
    """A CONDITIONING with words, as S-CFG Text Encode makes it."""
    numbers = [-1, *range(text.shape[1] - 1)]
    return host.conditioning(text, **{"scfg_words": (tuple(WORDS[: text.shape[1]]), tuple(numbers))} | keys)


def following(text: Tensor, words: str = OWNERS, given: Tensor | None = None, **options: Any) -> list:
    """A CONDITIONING that follows words; `options` of `FollowWords`, the range, and keys of the conditioning."""
    start, end = options.pop("start", 0.0), options.pop("end", 1.0)
    names = FollowWords.__dataclass_fields__
    request = FollowWords(words, **{name: options.pop(name) for name in list(options) if name in names})
    return follow_words(host.conditioning(text, **options), request, given, start, end)


@dataclass
class Reader:
    """Notes which masks stand in the lists that the host is about to run, at every evaluation."""

    masks: list[dict[str, list[Tensor | None]]] = field(default_factory=list)

    def on(self, model: Any) -> Any:
        clone = model.clone()
        clone.add_wrapper_with_key("predict_noise", "reader", self._read)
        return clone

    def __deepcopy__(self, memo: dict) -> "Reader":
        return self

    def _read(self, executor, *args, **kwargs):
        lists = executor.class_obj.conds
        found = {name: [entry.get("mask") for entry in entries] for name, entries in lists.items()}
        self.masks.append(
            {name: [None if mask is None else mask.clone() for mask in masks] for name, masks in found.items()}
        )
        return executor(*args, **kwargs)

    def seen(self, entry: int = 1, name: str = "positive") -> list[Tensor]:
        return [evaluation[name][entry] for evaluation in self.masks]


@dataclass
class Replay:
    """Gives a plain model the masks of a list of evaluations, one after the other."""

    masks: Sequence[Tensor]
    entry: int = 1
    name: str = "positive"
    at: int = 0

    def on(self, model: Any) -> Any:
        clone = model.clone()
        clone.add_wrapper_with_key("predict_noise", "replay", self._give)
        return clone

    def __deepcopy__(self, memo: dict) -> "Replay":
        return self

    def _give(self, executor, *args, **kwargs):
        executor.class_obj.conds[self.name][self.entry]["mask"] = self.masks[self.at]
        self.at += 1
        return executor(*args, **kwargs)


def expected_mask(
    probe: Probe,
    index: int,
    prompts: Sequence[Prompt],
    wanted: set[int],
    layers: tuple[str, ...] = host.SD15_LAYERS,
) -> tuple[np.ndarray, np.ndarray]:
    """(B, H, W) hard mask of the labels `wanted` by the maps of an evaluation, and where it may be either.

    Every tag is a word, so that the region of a phrase is that of its token, among START and the other words.
    """
    args = probe.evaluations[index].args
    latent = tuple(args["input"].shape[2:])
    masks, ties = [], []
    for image in range(len(args["input"])):
        entries = [_entry(probe, index, prompt, layers, image) for prompt in prompts]
        common = oracle.common_grid(entries, latent)
        columns, total = oracle.weighted_columns(entries, common, latent, Settings())
        scores = np.concatenate(columns, axis=1)
        own = [label for label in range(scores.shape[1]) if label % 77 == 0 or label % 77 % 2 == 1]
        winner, tied = oracle.best_and_tied(scores[:, own])
        owned = np.isin(np.array(own)[winner], list(wanted)) & (total > 0)
        masks.append(oracle.nearest(owned.reshape(common), *latent))
        ties.append(oracle.nearest(tied.reshape(common), *latent))
    return np.stack(masks).astype(float), np.stack(ties)


def _entry(probe: Probe, index: int, prompt: Prompt, layers: tuple[str, ...], image: int) -> tuple[Any, ...]:
    """(maps, grid, area, weight) of a prompt, as the oracle wants them."""
    maps = probe.layer_maps(index, layers, prompt.text, image, prompt.area)
    values, grid = oracle.fuse(maps, Settings(), lambda cross: oracle.fold_starts(cross, prompt.starts), 1e-8)
    area = None if prompt.area is None else (prompt.area[2], prompt.area[3], prompt.area[0], prompt.area[1])
    return values, grid, area, prompt.weight
