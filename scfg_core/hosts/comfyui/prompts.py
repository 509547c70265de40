"""Prompts as ComfyUI runs them: who they are, what their tokens are, and where they act.

A prompt is one dict of a list of conditionings. Its key is (index of the list, uuid): a uuid alone is not unique,
for a counterpart that the host makes for the other list shares it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace

import torch
from einops import rearrange
from torch import Tensor

from ...collect.calls import Rows
from ...method.entries import Area
from ...prompt import Branch, Prompt, number_labels
from ...run.session import Placement
from .models import Architecture, Text

Key = tuple[int, object]

WORDS = "scfg_words"
START_TOKENS = "scfg_start_tokens"
"""Keys of a CONDITIONING under which S-CFG Text Encode puts (texts, words) of every token, and its START tokens."""

FOLLOW = "scfg_follow"
FOLLOWER = "scfg_follower"
"""Keys of a conditioning whose mask follows words: the request, and in a run which follower is its (`follow`)."""


class PromptReader:
    """Reads what the text columns of a run's conditionings are, every text once: it waits for the device."""

    def __init__(self, architecture: Architecture) -> None:
        self._architecture = architecture
        self._read: dict[tuple[int, Branch], tuple[Tensor, Prompt]] = {}

    def read(self, branch: Branch, conditioning: dict, source: dict) -> Prompt:
        """The prompt of a conditioning; `source` is the entry that has its words."""
        context = context_of(conditioning)
        if context is None:
            raise ValueError("expected a conditioning with text, got none: read only those that `context_of` knows")
        key = id(context), branch
        if key not in self._read:
            self._read[key] = context, replace(self._prompt(context, conditioning, source), branch=branch)
        return self._read[key][1]

    def _prompt(self, context: Tensor, conditioning: dict, source: dict) -> Prompt:
        extra = {name: getattr(cond, "cond", None) for name, cond in conditioning["model_conds"].items()}
        texts, words = source.get(WORDS, ((), ()))
        mask = source.get("attention_mask")
        text = Text(context, extra, mask if isinstance(mask, Tensor) else None, source.get(START_TOKENS, ()), words)
        columns = self._architecture.read(text)
        places = [column - columns.first for column in range(len(columns.roles))]
        return Prompt(
            "cond",
            columns.roles,
            tuple(texts[place] if 0 <= place < len(texts) else "" for place in places),
            tuple(words[place] if 0 <= place < len(words) else -1 for place in places),
        )


@dataclass
class PromptLists:
    """The lists of conditionings of one evaluation, and the latent (B, C, H, W) or (B, C, T, H, W) that they
    describe.

    branches   branch of every list.
    prompts    every prompt by its key; the labels of each list count from 0.
    ambiguous  whether two prompts share a key.
    """

    lists: Sequence[list[dict] | None]
    latent: Tensor
    sigma: Tensor
    branches: Sequence[Branch]
    reader: PromptReader
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
        return self.reader.read(self.branches[index], conditioning, self.original(index, conditioning))

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
        batch = self.latent.shape[0]
        if x.shape[0] != len(keys) * batch or len(set(keys)) < len(keys):
            return None
        for key in keys:
            if key not in self.prompts:
                return None
            area = self.area(key)
            size = tuple(self.latent.shape[2:]) if area is None else (*self.latent.shape[2:-2], area.h, area.w)
            if tuple(x.shape[2:]) != size:
                return None
        return [Rows(key, slice(index * batch, (index + 1) * batch)) for index, key in enumerate(keys)]

    def placements(self, index: int) -> list[Placement]:
        """Where the prompts of one list act now, in order; those outside their timestep range are inactive.

        To be asked first before the model runs: a timestep range, like a default entry, waits for the device.
        """
        if index not in self._placements:
            self._placements[index] = self._place(index, self.lists[index] or ())
        return self._placements[index]

    def sides(self, cond: object, uncond: object) -> tuple[int, int] | None:
        """Which of the lists are the two that a CFG function was given; None where it was given others."""
        found = [
            next((index for index, each in enumerate(self.lists) if each is side), None) for side in (cond, uncond)
        ]
        if None in found and len(self.lists) == 2:
            found = [0, 1]
        first, second = found
        if first is None or second is None or self.branches[first] == "uncond" or self.branches[second] == "cond":
            return None
        return first, second

    def base_placements(self, index: int) -> list[Placement]:
        """Where the prompts of a list that follow no words act, as if there were no others."""
        return self._place(index, [found for found in self.lists[index] or () if FOLLOW not in found])

    def _place(self, index: int, conditionings: Sequence[dict]) -> list[Placement]:
        conditionings = [found for found in conditionings if (index, found["uuid"]) in self.prompts]
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
                room = self._weight(1.0) - sum(weight for weight in others if weight is not None)
                room = room.clamp(min=0)
                # the host does not run it where there is no room; it waits for the device here as well
                place = Placement(place.prompt, None, room, active=bool(room.any()))
            result.append(place)
        return result

    def _placed(self, conditioning: dict) -> tuple[Area | None, Tensor] | None:
        """Area, and the host's weight over the whole latent (B, T·H, W); None outside the entry's timestep range,
        and where its area is not one of the folded latent: a part of several frames."""
        from comfy.samplers import get_area_and_mult

        bare = {key: value for key, value in conditioning.items() if key not in ("gligen", "control", "hooks")}
        bare["model_conds"] = {}
        found = get_area_and_mult(bare, self.latent, self.sigma)
        if found is None:
            return None
        if found.area is None:
            return None, self._weight(0.0) + _folded(found.mult[:, 0])
        sizes = found.area[: len(found.area) // 2]
        starts = found.area[len(sizes) :]
        if len(sizes) == 3 and self.latent.shape[2] > 1:
            return None
        weight = self._weight(0.0)
        (h, w), (y, x) = sizes[-2:], starts[-2:]
        weight[:, y : y + h, x : x + w] = _folded(found.mult[:, 0])
        return Area(y, x, h, w), weight

    def _weight(self, value: float) -> Tensor:
        """(B, T·H, W) of one value."""
        return torch.full_like(_folded(self.latent[:, 0]), value)


def _folded(cells: Tensor) -> Tensor:
    """(B, T, H, W) → (B, T·H, W): frames one below the other; an image stays."""
    return rearrange(cells, "b t h w -> b (t h) w") if cells.ndim == 4 else cells


def context_of(conditioning: dict) -> Tensor | None:
    """The text context (B, L, d) that the model attends to; for a counterpart that the host made, it is its own."""
    model_cond = conditioning.get("model_conds", {}).get("c_crossattn")
    context = getattr(model_cond, "cond", None)
    return context if isinstance(context, Tensor) and context.ndim == 3 else None
