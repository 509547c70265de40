"""Prompt entries as ComfyUI runs them: who they are, how many tokens they have, and where they speak.

An entry is one dict of a list of conditionings. Its key is (index of the list, uuid): a uuid alone is not unique,
for a counterpart that the host makes for the other list shares it.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...collector import Branch, Entry, Rows
from ...entries import CHUNK, Area, chunk_starts
from ...session import Placement
from ...words import PromptTokens

Key = tuple[int, object]

WORDS = "scfg_words"
START_TOKENS = "scfg_start_tokens"
"""Keys of a CONDITIONING under which S-CFG Text Encode puts (texts, words) of every token, and its START tokens."""


@dataclass
class Prompts:
    """The lists of conditionings of one evaluation, and the latent that they speak about."""

    lists: Sequence[list[dict] | None]
    latent: Tensor
    sigma: Tensor
    branches: dict[int, Branch]
    entries: dict[Hashable, Entry] = field(default_factory=dict)
    ambiguous: bool = False
    _placements: dict[int, list[Placement]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, conditionings in enumerate(self.lists):
            for conditioning in conditionings or ():
                context = context_of(conditioning)
                if context is None:
                    continue
                key = (index, conditioning["uuid"])
                self.ambiguous |= key in self.entries
                starts = start_tokens(self.original(index, conditioning))
                self.entries[key] = Entry(self.branches[index], context.shape[1], starts)

    def original(self, index: int, conditioning: dict) -> dict:
        """The entry of this list that says the same text first: a counterpart that the host made for the other
        list has its text, and everything else, words too, from there.
        """
        text = conditioning.get("model_conds", {}).get("c_crossattn")
        return next(
            each for each in self.lists[index] or () if each.get("model_conds", {}).get("c_crossattn") is text
        )

    def area(self, key: Key) -> Area | None:
        """The part of the latent that an entry's forward runs on; None = all of it."""
        return next((place.area for place in self.placements(key[0]) if place.entry == key), None)

    def rows(self, x: Tensor, keys: Sequence[Key]) -> list[Rows] | None:
        """Rows of every chunk of a batch x; None where it is not what its entries' areas and the latent say."""
        batch, _, height, width = self.latent.shape
        if x.shape[0] != len(keys) * batch or len(set(keys)) < len(keys):
            return None
        for key in keys:
            if key not in self.entries:
                return None
            area = self.area(key)
            if tuple(x.shape[2:]) != ((height, width) if area is None else (area.h, area.w)):
                return None
        return [Rows(key, slice(index * batch, (index + 1) * batch)) for index, key in enumerate(keys)]

    def placements(self, index: int) -> list[Placement]:
        """Where the entries of one list speak now, in order; those outside their timestep range are silent.

        Asked first before the U-Net runs: a timestep range, like a default entry, waits for the device.
        """
        if index not in self._placements:
            self._placements[index] = self._place(index)
        return self._placements[index]

    def _place(self, index: int) -> list[Placement]:
        conditionings = [each for each in self.lists[index] or () if (index, each["uuid"]) in self.entries]
        plain = len(conditionings) == 1 and not {"area", "mask"} & conditionings[0].keys()
        if plain:
            return [Placement((index, conditionings[0]["uuid"]))]
        placed = []
        for conditioning in conditionings:
            key, place = (index, conditioning["uuid"]), self._placed(conditioning)
            placed.append((conditioning, Placement(key, silent=True) if place is None else Placement(key, *place)))
        return self._with_defaults(placed)

    def _with_defaults(self, placed: list[tuple[dict, Placement]]) -> list[Placement]:
        """A default entry speaks where the others leave room: 1 − Σ of their weights, not below 0."""
        others = [place.weight for conditioning, place in placed if "default" not in conditioning]
        result = []
        for conditioning, place in placed:
            if "default" in conditioning and not place.silent:
                room = torch.ones_like(self.latent[:, 0]) - sum(weight for weight in others if weight is not None)
                room = room.clamp(min=0)
                # the host does not run it where there is none; it waits for the device here as well
                place = Placement(place.entry, None, room, silent=not room.any())
            result.append(place)
        return result

    def _placed(self, conditioning: dict) -> tuple[Area | None, Tensor] | None:
        """Area, and the host's weight over the whole latent (B, H, W); None outside the entry's timestep range."""
        from comfy.samplers import get_area_and_mult

        bare = {key: each for key, each in conditioning.items() if key not in ("gligen", "control", "hooks")}
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
    """The text context (B, L, d) that the U-Net attends to; for a counterpart that the host made, it is its own."""
    model_cond = conditioning.get("model_conds", {}).get("c_crossattn")
    context = getattr(model_cond, "cond", None)
    return context if isinstance(context, Tensor) and context.ndim == 3 else None


def start_tokens(conditioning: dict) -> tuple[int, ...]:
    """START of every chunk: as our encoder says, and every 77th token where 77 divides the length."""
    context = context_of(conditioning)
    length = 1 if context is None else context.shape[1]
    said = {start for start in conditioning.get(START_TOKENS, ()) if start < length}
    return tuple(sorted(said.union(chunk_starts(length) if length % CHUNK == 0 or not said else ())))


def prompt_tokens(prompts: Prompts, index: int, placements: Sequence[Placement]) -> list[PromptTokens]:
    """The tokens of the entries of one list, in label order; unnamed where the encoder did not say."""
    by_key: dict[Hashable, dict] = {(index, each["uuid"]): each for each in prompts.lists[index] or ()}
    first, tokens = 0, []
    for place in placements:
        length = prompts.entries[place.entry].num_tokens
        texts, words = prompts.original(index, by_key[place.entry]).get(WORDS, ((), ()))
        missing = max(0, length - len(texts))
        texts, words = (*texts, *[""] * missing)[:length], (*words, *[-1] * missing)[:length]
        tokens.append(PromptTokens(first, texts, words))
        first += length
    return tokens
