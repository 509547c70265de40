"""Conditionings whose mask follows words of the base prompt, in a run.

The run resolves their requests (`follow_request`) before sampling, and assigns a new mask at the start of every
evaluation: the host reads `mask` at each one. The dicts are the run's own copies, so nothing remains in the
CONDITIONING.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...errors import SettingsError
from ...method.segment import Segmentation
from ...prompt import Prompt, number_labels
from ...run.follow import Follower
from ...run.notes import Note
from ...run.regions import known_words
from .follow_request import Request, refuse_bounds, static_mask
from .levels import grid_of
from .prompts import FOLLOW, FOLLOWER, WORDS

LEAST_ROOM = 1 / 256
"""Weight that followed masks leave a default prompt, which the host would not run without; exact in bf16."""

UNKNOWN = ("",), (-1,)
"""Texts and words of a prompt that was encoded without them."""


class Following:
    """The conditionings of a run that follow words; made before sampling, from the guider's own copies.

    conds       the guider's lists by name.
    min_region  share of the image below which parts of a region are dropped.
    base        name of the list whose other conditionings are followed.
    words       of every follower.
    notes       what the user is told.

    Raises `SettingsError` where a conditioning cannot follow, or names a word that the base prompt does not have.
    """

    def __init__(self, conds: dict[str, list[dict]], min_region: float) -> None:
        self.notes: list[Note] = []
        self.words: tuple[str, ...] = ()
        self._followed: list[_Followed] = []
        self.base = "positive" if "positive" in conds else next(iter(conds))
        entries = [entry for entry in conds[self.base] if FOLLOW not in entry]
        if not entries:
            raise SettingsError(
                "expected a base prompt beside the one that follows words, got none: join the two with "
                "Conditioning Combine"
            )
        described = [entry.get(WORDS, UNKNOWN) for entry in entries]
        prompts = [Prompt.plain("cond", len(texts), (), texts, words) for texts, words in described]
        for conditionings in conds.values():
            for entry in conditionings:
                if FOLLOW in entry:
                    self._add(entry, number_labels(prompts), _has_default(conditionings), min_region)

    def _add(self, entry: dict, prompts: Sequence[Prompt], has_default: bool, min_region: float) -> None:
        request: Request = entry[FOLLOW]
        refuse_bounds(entry)
        if "default" in entry:
            raise SettingsError(
                "expected the base prompt as the default one, got the prompt that follows words: exchange the two "
                "at Cond Set Default Combine"
            )
        known_words(request.words.words, prompts)
        words = request.words
        if has_default and words.fallback == "everywhere":
            words = replace(words, fallback="nowhere")
            self.notes.append(Note.NOT_EVERYWHERE)
        within = request.within if request.made(entry) else entry.get("mask")
        entry["mask"] = static_mask(words.fallback, request.given, within)
        entry[FOLLOWER] = len(self._followed)
        self._followed.append(_Followed(Follower(words, min_region), request.given, within))
        self.words = (*self.words, words.words)

    def parts(self) -> set[tuple[float, float]]:
        """Parts of the schedule, 0…1, in which regions move."""
        return {followed.moves for followed in self._followed}

    def wants_maps(self, within: Callable[[float, float], bool]) -> bool:
        """Whether a region moves in this evaluation; `within`: whether it lies in a part of the schedule."""
        return any(within(*followed.moves) for followed in self._followed)

    def update(
        self, segmentation: Segmentation, prompts: Sequence[Prompt], within: Callable[[float, float], bool]
    ) -> None:
        """Take the regions of the prompts that do not follow."""
        for followed in self._followed:
            if within(*followed.moves):
                followed.follower.update(segmentation, prompts)

    def assign(self, conds: Mapping[str, list[dict]], latent: Tensor) -> list[Tensor]:
        """Give every conditioning its mask for this evaluation of a latent (B, C, H, W) or (B, C, T, H, W).

        conds: the guider's lists, now as the host prepared them. Returns the masks (B, T·H, W), one per follower.
        """
        masks = [followed.mask(latent) for followed in self._followed]
        frames = latent.shape[2] if latent.ndim == 5 else None
        for conditionings in conds.values():
            following = [entry for entry in conditionings if FOLLOWER in entry]
            part = _part_that_leaves_room(following, masks) if _has_default(conditionings) else None
            for entry in following:
                mask = masks[entry[FOLLOWER]] if part is None else masks[entry[FOLLOWER]] * part
                entry["mask"] = mask if frames is None else rearrange(mask, "b (t h) w -> b t h w", t=frames)
        return masks

    def finished(self) -> list[Note]:
        """Notes of the whole run; waits for the device."""
        followers = [followed.follower for followed in self._followed]
        notes = list(self.notes)
        if not all(follower.followed for follower in followers):
            notes.append(Note.NOT_FOLLOWED)
        if any(follower.fell_back() for follower in followers):
            notes.append(Note.FELL_BACK)
        return notes


def _has_default(conditionings: Sequence[dict]) -> bool:
    """Whether a list has a default prompt, which acts where the others leave room."""
    return any("default" in entry for entry in conditionings)


def _part_that_leaves_room(following: Sequence[dict], masks: Sequence[Tensor]) -> Tensor | None:
    """() What the masks of a list's followers are multiplied by, so that its default prompt has room somewhere.

    Without room the host does not run it, and without its attention no mask moves again.
    """
    if not following:
        return None
    strengths = [entry.get("strength", 1.0) * entry.get("mask_strength", 1.0) for entry in following]
    weights = [masks[entry[FOLLOWER]] * strength for entry, strength in zip(following, strengths, strict=True)]
    least = torch.stack(torch.broadcast_tensors(*weights)).sum(dim=0).amin()
    return torch.where(least > 1 - LEAST_ROOM, (1 - LEAST_ROOM) / least, 1.0)


def following_of(guider: Any, min_region: float) -> Following | None:
    """What follows words in the run that a guider is about to begin; None = nothing."""
    conds: dict[str, list[dict]] = guider.conds
    if not any(FOLLOW in entry for conditionings in conds.values() for entry in conditionings):
        return None
    return Following(conds, min_region)


class _Followed:
    """A follower, with the masks that bound it.

    moves   part of the schedule in which its region does.
    given   mask of its fallback "mask"; within: mask that multiplies; None = none.
    """

    def __init__(self, follower: Follower, given: Tensor | None, within: Tensor | None) -> None:
        self.follower = follower
        self.moves = (0.0, follower.request.freeze)
        self._given = given
        self._within = within
        self._sized: tuple[torch.Size, Tensor, Tensor | None] | None = None

    def mask(self, latent: Tensor) -> Tensor:
        """(B, T·H, W) for a latent."""
        if self._sized is None or self._sized[0] != latent.shape:
            fallback = static_mask(self.follower.request.fallback, self._given, None)
            within = None if self._within is None else _on(latent, self._within)
            self._sized = latent.shape, _on(latent, fallback), within
        _, fallback, within = self._sized
        mask = self.follower.mask(len(latent), grid_of(latent), fallback)
        return mask if within is None else mask * within


def _on(latent: Tensor, mask: Tensor) -> Tensor:
    """A mask as the host brings it to a latent: (B, T·H, W) fp32 on its device; of one cell exactly."""
    if mask.numel() == 1:
        size = grid_of(latent)
        return mask.to(latent.device, torch.float32).expand(len(latent), size.h, size.w)
    from comfy.samplers import resolve_areas_and_cond_masks_multidim

    holder = [{"mask": mask.float()}]
    resolve_areas_and_cond_masks_multidim(holder, latent.shape[2:], latent.device)
    sized = holder[0]["mask"]
    if latent.ndim == 5:
        sized = rearrange(sized.expand(-1, latent.shape[2], -1, -1), "b t h w -> b (t h) w")
    images = len(latent)
    return sized[:images].repeat(images // min(len(sized), images), 1, 1)
