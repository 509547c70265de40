"""Conditionings whose mask follows words of the base prompt.

`follow_words` puts a request and a fallback mask into a CONDITIONING. The run that samples it resolves the request
before sampling, and assigns a new mask at the start of every evaluation: the host reads `mask` at each one. The
dicts are the run's own copies, so nothing remains in the CONDITIONING.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...errors import SettingsError
from ...grid import Grid, bilinear
from ...method.segment import Segmentation
from ...prompt import Prompt, number_labels
from ...run.follow import Fallback, Follower, FollowWords
from ...run.notes import Note
from ...run.regions import known_words
from .levels import grid_of
from .prompts import FOLLOW, FOLLOWER, WORDS

LEAST_ROOM = 1 / 256
"""Weight that followed masks leave a default prompt, which the host would not run without; exact in bf16."""

UNKNOWN = ("",), (-1,)
"""Texts and words of a prompt that was encoded without them."""


@dataclass(frozen=True)
class Request:
    """What a conditioning follows.

    words   what, and how; its feather in latent cells.
    within  mask that the conditioning had before, which multiplies; None = none.
    given   mask of the fallback "mask".
    static  what stands under `mask` until a run takes over.
    """

    words: FollowWords
    within: Tensor | None
    given: Tensor | None
    static: Tensor

    def made(self, entry: Mapping[str, Any]) -> bool:
        """Whether the mask of an entry comes from here: the static one or a copy of it, or that of a run."""
        mask = entry.get("mask")
        if FOLLOWER in entry or mask is self.static:
            return True
        everywhere_same = self.within is None and self.words.fallback != "mask"
        return everywhere_same and mask is not None and bool((mask == self.static.flatten()[0]).all())


class Unfollowed(Tensor):
    """A mask that says in the log when the host prepares it although no S-CFG run has taken over."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        logging.warning("S-CFG Follow Words: %s", Note.NOT_FOLLOWED.text)
        return self.as_subclass(Tensor).to(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Unfollowed":
        """Other nodes copy a CONDITIONING; within it, it stays the one mask that its request names."""
        memo[id(self)] = copy = self.as_subclass(Tensor).clone().as_subclass(Unfollowed)
        return copy


def follow_words(
    conditioning: Sequence[Sequence[Any]], request: FollowWords, given: Tensor | None, start: float, end: float
) -> list[list[Any]]:
    """The CONDITIONING, masked by what `request` follows.

    given       MASK (B, H, W) for the fallback "mask".
    start, end  part of the schedule, 0…1, in which it acts; within what it had before.

    Raises `SettingsError` where the fallback needs a mask that is not given, a conditioning cannot follow words, or
    none of them acts within the range.
    """
    if request.fallback == "mask" and given is None:
        raise SettingsError(
            "expected a mask to fall back to, got none: connect one, or choose nowhere or everywhere"
        )
    if not start < end:
        raise SettingsError(f"expected start_percent below end_percent, got {start} and {end}: exchange them")
    if conditioning and (start, end) != (0, 1):
        _refuse_ranges_apart([_range(entry) for _, entry in conditioning], start, end)
    return [[text, _following(entry, request, given, start, end)] for text, entry in conditioning]


def _following(entry: dict, words: FollowWords, given: Tensor | None, start: float, end: float) -> dict:
    if FOLLOW in entry:
        raise SettingsError(
            "expected a conditioning that does not follow words yet, got one that does: name all words in one node"
        )
    _refuse_bounds(entry)
    within = entry.get("mask")
    static = static_mask(words.fallback, given, within)
    own = Request(words, within, given, static.as_subclass(Unfollowed))
    changed = {**entry, FOLLOW: own, "mask": own.static}
    if (start, end) != (0, 1):
        changed["start_percent"] = max(start, entry.get("start_percent", 0.0))
        changed["end_percent"] = min(end, entry.get("end_percent", 1.0))
    return changed


def _range(entry: Mapping[str, Any]) -> tuple[float, float]:
    """Part of the schedule, 0…1, in which the host runs a conditioning; hooks on its CLIP narrow it as well."""
    start, end = entry.get("start_percent", 0.0), entry.get("end_percent", 1.0)
    return max(start, entry.get("clip_start_percent", 0.0)), min(end, entry.get("clip_end_percent", 1.0))


def _refuse_ranges_apart(ranges: Sequence[tuple[float, float]], start: float, end: float) -> None:
    """Some prompts of a schedule may lie outside the range, but not all of them."""
    if all(max(start, first) >= min(end, last) for first, last in ranges):
        theirs = " or ".join(f"{first:g} to {last:g}" for first, last in ranges)
        raise SettingsError(
            f"expected a range within which the conditioning acts, {theirs}, got {start:g} to {end:g}: "
            "change start_percent and end_percent"
        )


def _refuse_bounds(entry: dict) -> None:
    if entry.get("set_area_to_bounds"):
        raise SettingsError(
            "expected a mask with set_cond_area “default”, got “mask bounds”: a region that follows words moves, "
            "and the bounds of the area do not"
        )


def static_mask(fallback: Fallback, given: Tensor | None, within: Tensor | None) -> Tensor:
    """(B, H, W): where the fallback lies, within a mask; of one cell where it is the same everywhere.

    Raises `SettingsError` where the two masks are of numbers of images that do not fit.
    """
    if fallback == "mask" and given is not None:
        mask = given if given.ndim == 3 else given[None]
        if within is None:
            return mask
        within = within if within.ndim == 3 else within[None]
        size = Grid(*within.shape[-2:])
        values = bilinear(rearrange(mask, "b h w -> b (h w) 1"), Grid(*mask.shape[-2:]), size)
        mask, within = _as_many(rearrange(values, "b (h w) 1 -> b h w", h=size.h), within)
        return mask * within
    value = 1.0 if fallback == "everywhere" else 0.0
    return torch.full((1, 1, 1), value) if within is None else within * value


def _as_many(given: Tensor, within: Tensor) -> list[Tensor]:
    """Two masks (B, H, W) with as many images: the fewer ones repeated, as the host does for a batch."""
    fewer, images = sorted((len(given), len(within)))
    if images % fewer:
        raise SettingsError(
            f"expected a given mask of 1 image, or of {len(within)} like the mask of the conditioning, "
            f"got {len(given)}: connect one of these"
        )
    return [mask.repeat(images // len(mask), 1, 1) for mask in (given, within)]


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
        _refuse_bounds(entry)
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
