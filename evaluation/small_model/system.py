"""The small bundled model: held-out captions, one noise per index, and a judge that knows what was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from demo.model import DEFAULT, load_model
from demo.sample import sample, starting_noise, to_pixels
from demo.score import find_background, score, soft_alpha
from demo.world import Description, held_out_scenes, palette, patches
from scfg_core import Segmentation, Settings
from scfg_core.run.record import Run

from ..experiment import Request
from ..regions import shuffled
from ..store import Pixels, Record
from .places import places_right

PROMPTS, PROMPTS_SEED = 680, 500_003
"""How many captions there are, and the seed that draws them all at once, so that fewer are the first of them."""

WATCH = Settings(strength=0.0)


class SmallModel:
    """The `System` of `demo/`: pixels 32×32, prompts that training never saw."""

    def __init__(self, *, weights: Path = DEFAULT, steps: int = 20, sampler: str = "ddim", seed: int = 0) -> None:
        """`seed`: noise of the first prompt; the next ones count up."""
        self._model = load_model(weights)
        self.descriptions: list[Description] = held_out_scenes(PROMPTS, PROMPTS_SEED).descriptions
        self._weights = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        self._steps, self._sampler, self._seed = steps, sampler, seed

    @property
    def captions(self) -> list[str]:
        return [told.caption for told in self.descriptions]

    def describe(self) -> Record:
        return {"weights": self._weights, "steps": self._steps, "sampler": self._sampler, "seed": self._seed}

    def draw(self, request: Request) -> tuple[list[Pixels], Run | None]:
        """Draw a batch; plain CFG is watched, which leaves its pictures as they are, unless it has no one γ."""
        arm, same = request.arm, len(set(request.scales)) == 1
        settings = arm.settings or (WATCH if same else None)
        drawn = sample(
            self._model,
            [self.captions[index] for index in request.indices],
            starting_noise([self._seed + index for index in request.indices]),
            scale=request.scales[0] if same else torch.tensor(request.scales),
            settings=settings,
            steps=self._steps,
            sampler=self._sampler,
            resegment=self._other_regions(request),
        )
        return [to_pixels(image) for image in drawn.images], drawn.run

    def judge(self, images: Sequence[Pixels], indices: Sequence[int]) -> list[Record]:
        pictures, told = from_pixels(images), [self.descriptions[index] for index in indices]
        verdicts = zip(score(pictures, told), places_right(pictures, told), strict=True)
        return [
            {
                "phrases": [bool(right) for right in verdict.phrases],
                "colours": [bool(right) for right in verdict.colours],
                "shapes": [bool(right) for right in verdict.shapes],
                "backgrounds": [] if verdict.background is None else [bool(verdict.background)],
                "places": places,
            }
            for verdict, places in verdicts
        ]

    def _other_regions(self, request: Request) -> Callable[[Segmentation], Segmentation] | None:
        if request.arm.regions == "shuffled":
            return lambda found: shuffled(found, [self._seed + index for index in request.indices])
        if request.arm.regions == "true":
            assert request.drawn is not None
            told = [self.descriptions[index] for index in request.indices]
            owners = true_regions(from_pixels(request.drawn), told)
            return lambda found: regions_of(found, owners)
        return None


def from_pixels(images: Sequence[Pixels]) -> Tensor:
    """(h, w, 3) uint8 pictures as (N, 3, h, w), range −1…1."""
    return rearrange(torch.from_numpy(np.stack(images)).float(), "n h w c -> n c h w") / 127.5 - 1


def true_regions(pictures: Tensor, told: Sequence[Description]) -> Tensor:
    """Which phrase owns each pixel (N, 32, 32) of these pictures, by its colour; −1 = background."""
    _, ground = find_background(pictures)
    owners = torch.full((len(pictures), *pictures.shape[-2:]), -1)
    for row, (picture, mean, description) in enumerate(zip(pictures, ground, told, strict=True)):
        colours = palette()[[phrase.colour for phrase in description.phrases]]
        alpha = soft_alpha(picture[None], mean[None], colours[None])[0]
        best, phrase = alpha.max(dim=0)
        owners[row] = torch.where(best > 0.5, phrase, -1)
    return owners


def regions_of(found: Segmentation, owners: Tensor) -> Segmentation:
    """The true regions on the grid of `found`: a patch belongs to the phrase that covers more than half of it."""
    labels = torch.zeros_like(found.labels)
    for phrase in range(int(owners.max()) + 1):
        labels[patches(owners == phrase, found.grid.h) > 0.5] = phrase + 1
    has_shapes = (labels > 0).flatten(1).any(dim=1)
    return replace(found, labels=labels, foreground=(labels > 0) | ~has_shapes[:, None, None])
