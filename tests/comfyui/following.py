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
from .expected import Prompt, segmented
from .probe import Probe

WORDS = ["<start>", *(f"w{i}" for i in range(1, 77))]
OWNERS = ", ".join(f"w{i}" for i in range(1, 40))
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
    """(B, H, W) hard mask of the labels `wanted` by the maps of an evaluation, and where it may be either."""
    args = probe.evaluations[index].args
    latent = tuple(args["input"].shape[2:])
    masks, ties = [], []
    for image in range(len(args["input"])):
        found = segmented(probe, index, prompts, prompts[:1], image, Settings(), layers, latent)
        masks.append(oracle.nearest(np.isin(found.labels, list(wanted)), *latent))
        ties.append(oracle.nearest(found.tied, *latent))
    return np.stack(masks).astype(float), np.stack(ties)
