"""Prompts as ComfyUI runs them: who they are, what their tokens are, and where they act.

A prompt is one dict of a list of conditionings. Its key is (index of the list, uuid): a uuid alone is not unique,
for a counterpart that the host makes for the other list shares it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...collect.calls import Rows
from ...method.entries import Area
from ...prompt import Branch, Prompt, number_labels
from ...run.session import Placement
from .models import Architecture

Key = tuple[int, object]

WORDS = "scfg_words"
START_TOKENS = "scfg_start_tokens"
"""Keys of a CONDITIONING under which S-CFG Text Encode puts (texts, words) of every token, and its START tokens."""


@dataclass
class PromptLists:
    """The lists of conditionings of one evaluation, and the latent (B, C, H, W) that they describe.

    branches   branch of every list.
    prompts    every prompt by its key; the labels of each list count from 0.
    ambiguous  whether two prompts share a key.
    """

    lists: Sequence[list[dict] | None]
    latent: Tensor
    sigma: Tensor
    branches: Sequence[Branch]
    architecture: Architecture
    prompts: dict[Hashable, Prompt] = field(default_factory=dict)
    ambiguous: bool = False
    _placements: dict[int, list[Placement]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, conditionings in enumerate(self.lists):
            with_text = [found for found in conditionings or () if context_of(found) is not None]
            keys = [(index, found["uuid"]) for found in with_text]
            self.ambiguous |= len(set(keys)) < len(keys)
            numbered = number_labels(self._prompt(index, found) for found in with_text)
            self.prompts |= dict(zip(keys, numbered, strict=True))

    def _prompt(self, index: int, conditioning: dict) -> Prompt:
        context = context_of(conditioning)
        length = 1 if context is None else context.shape[1]
        source = self.original(index, conditioning)
        starts = self.architecture.start_tokens(length, source.get(START_TOKENS, ()))
        texts, words = source.get(WORDS, ((), ()))
        missing = max(0, length - len(texts))
        texts, words = (*texts, *[""] * missing)[:length], (*words, *[-1] * missing)[:length]
        return Prompt.plain(self.branches[index], length, starts, texts, words)

    def original(self, index: int, conditioning: dict) -> dict:
        """The first entry of this list with the same text: a counterpart that the host made for the other list has
        its text, and everything else, words too, from there.
        """
        text = conditioning.get("model_conds", {}).get("c_crossattn")
        return next(
            found for found in self.lists[index] or () if found.get("model_conds", {}).get("c_crossattn") is text
        )

    def area(self, key: Key) -> Area | None:
        """The part of the latent that a prompt's forward runs on; None = all of it."""
        return next((place.area for place in self.placements(key[0]) if place.prompt == key), None)

    def rows(self, x: Tensor, keys: Sequence[Key]) -> list[Rows] | None:
        """Rows of every chunk of a batch x; None where it is not what its prompts' areas and the latent say."""
        batch, _, height, width = self.latent.shape
        if x.shape[0] != len(keys) * batch or len(set(keys)) < len(keys):
            return None
        for key in keys:
            if key not in self.prompts:
                return None
            area = self.area(key)
            if tuple(x.shape[2:]) != ((height, width) if area is None else (area.h, area.w)):
                return None
        return [Rows(key, slice(index * batch, (index + 1) * batch)) for index, key in enumerate(keys)]

    def placements(self, index: int) -> list[Placement]:
        """Where the prompts of one list act now, in order; those outside their timestep range are inactive.

        To be asked first before the model runs: a timestep range, like a default entry, waits for the device.
        """
        if index not in self._placements:
            self._placements[index] = self._place(index)
        return self._placements[index]

    def _place(self, index: int) -> list[Placement]:
        conditionings = [found for found in self.lists[index] or () if (index, found["uuid"]) in self.prompts]
        if len(conditionings) == 1 and not {"area", "mask"} & conditionings[0].keys():
            return [Placement((index, conditionings[0]["uuid"]))]
        placed = []
        for conditioning in conditionings:
            key, place = (index, conditioning["uuid"]), self._placed(conditioning)
            placement = Placement(key, active=False) if place is None else Placement(key, *place)
            placed.append((conditioning, placement))
        return self._with_defaults(placed)

    def _with_defaults(self, placed: list[tuple[dict, Placement]]) -> list[Placement]:
        """A default entry acts where the others leave room: 1 − Σ of their weights, not below 0."""
        others = [place.weight for conditioning, place in placed if "default" not in conditioning]
        result = []
        for conditioning, place in placed:
            if "default" in conditioning and place.active:
                room = torch.ones_like(self.latent[:, 0]) - sum(weight for weight in others if weight is not None)
                room = room.clamp(min=0)
                # the host does not run it where there is no room; it waits for the device here as well
                place = Placement(place.prompt, None, room, active=bool(room.any()))
            result.append(place)
        return result

    def _placed(self, conditioning: dict) -> tuple[Area | None, Tensor] | None:
        """Area, and the host's weight over the whole latent (B, H, W); None outside the entry's timestep range."""
        from comfy.samplers import get_area_and_mult

        bare = {key: value for key, value in conditioning.items() if key not in ("gligen", "control", "hooks")}
        bare["model_conds"] = {}
        found = get_area_and_mult(bare, self.latent, self.sigma)
        if found is None:
            return None
        area = None
        weight = torch.zeros_like(self.latent[:, 0])
        if found.area is None:
            weight = weight + found.mult[:, 0]
        else:
            h, w, y, x = found.area
            area = Area(y, x, h, w)
            weight[:, y : y + h, x : x + w] = found.mult[:, 0]
        return area, weight


def context_of(conditioning: dict) -> Tensor | None:
    """The text context (B, L, d) that the model attends to; for a counterpart that the host made, it is its own."""
    model_cond = conditioning.get("model_conds", {}).get("c_crossattn")
    context = getattr(model_cond, "cond", None)
    return context if isinstance(context, Tensor) and context.ndim == 3 else None
