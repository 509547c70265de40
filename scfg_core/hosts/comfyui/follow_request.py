"""`follow_words`: a conditioning asks for a mask that follows words of the base prompt.

The request and a fallback mask go into a CONDITIONING; the run that samples it takes over from there (`follow`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...errors import SettingsError
from ...grid import Grid, bilinear
from ...run.follow import Fallback, FollowWords
from ...run.notes import Note
from .prompts import FOLLOW, FOLLOWER


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
    refuse_bounds(entry)
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


def refuse_bounds(entry: dict) -> None:
    """Raises `SettingsError` where the host would cut a conditioning to the bounds of its mask."""
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
