"""A mask that follows words: at every evaluation the region that they owned in the evaluations before it.

The region is that of the segmentation (Eq. 9, 10) of the prompts that do not follow. Outside the allowed share of
the image, and before there are labels, a fallback holds.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from einops import rearrange, reduce
from torch import Tensor

from ..errors import SettingsError
from ..grid import Grid, bilinear, nearest
from ..method.fusion import TokenMaps
from ..method.segment import Segmentation
from ..prompt import Prompt
from .masks import feather, soft_mask, stretch
from .phrases import labels_of_phrases
from .regions import word_mask
from .words import some_words_in, words_in

MaskMode = Literal["hard", "soft", "stretched"]
Fallback = Literal["nowhere", "everywhere", "mask"]
MOST_BLENDED = 16


@dataclass(frozen=True)
class FollowWords:
    """What to follow, and how.

    words      words or phrases of the prompt, separated by commas; their regions are combined.
    mode       hard: 1 where the phrases that they belong to win. soft: the phrases' share of the attention of
               all tokens. stretched: the same, brought to the range from 0 to 1.
    feather    blur of the border, latent cells ≥ 0.
    freeze     part of the schedule, 0…1, after which the region stays as it is; 1 = never.
    blend      mean over the regions of this many evaluations, 1…16.
    min_share, max_share  of the image, 0…1, that the words may own; outside, the fallback holds.
    fallback   where the mask lies then, and before the first labels; "mask" = a mask that the caller has.

    Raises `SettingsError` for a value outside its range.
    """

    words: str
    mode: MaskMode = "hard"
    feather: float = 0.0
    freeze: float = 1.0
    blend: int = 1
    min_share: float = 0.0
    max_share: float = 1.0
    fallback: Fallback = "nowhere"

    def __post_init__(self) -> None:
        some_words_in(self.words)
        for name, choices in (("mode", get_args(MaskMode)), ("fallback", get_args(Fallback))):
            if getattr(self, name) not in choices:
                given = getattr(self, name)
                raise SettingsError(f"expected a {name} of {', '.join(choices)}, got {given!r}: choose one")
        if not self.feather >= 0:
            raise SettingsError(f"expected feather ≥ 0, got {self.feather}: 0 leaves the border as it is")
        if not 0 <= self.freeze <= 1:
            raise SettingsError(f"expected freeze from 0 to 1, got {self.freeze}: 1 follows to the end")
        if not 1 <= self.blend <= MOST_BLENDED:
            raise SettingsError(f"expected blend from 1 to {MOST_BLENDED}, got {self.blend}: 1 does not blend")
        if not 0 <= self.min_share <= self.max_share <= 1:
            raise SettingsError(
                f"expected shares 0 ≤ min ≤ max ≤ 1, got {self.min_share} and {self.max_share}: "
                "0 and 1 allow every region"
            )


class Follower:
    """The region of one `FollowWords` during a run.

    update → mask, update → mask, …: the mask of an evaluation is made of the segmentations before it.
    """

    def __init__(self, request: FollowWords, min_region: float = 0.0) -> None:
        """min_region: share of the image below which parts of the region are dropped (`regions.word_mask`)."""
        self.request = request
        self._min_region = min_region
        self._regions: deque[tuple[Tensor, Tensor]] = deque(maxlen=request.blend)
        """Region (B, h, w) of an evaluation, and the images (B,) in which its share is allowed."""
        self._allowed: Tensor | None = None
        self._always_allowed: Tensor | None = None

    def update(self, segmentation: Segmentation, prompts: Sequence[Prompt]) -> None:
        """Take a segmentation of the prompts that do not follow; `prompts`: whose labels they are."""
        words, grid = words_in(self.request.words), segmentation.grid
        owned = word_mask(segmentation, prompts, words, grid, min_region=self._min_region)
        if self._regions and self._regions[-1][0].shape != owned.shape:
            self._regions.clear()
        share = reduce(owned, "b h w -> b", "mean")
        allowed = (share >= self.request.min_share) & (share <= self.request.max_share)
        self._allowed = allowed if segmentation.finite is None else allowed & segmentation.finite
        region = owned if self.request.mode == "hard" else self._soft(segmentation, prompts)
        self._regions.append((region, self._allowed))
        before = self._always_allowed
        everywhere = self._allowed.all()
        self._always_allowed = everywhere if before is None else before & everywhere

    def _soft(self, segmentation: Segmentation, prompts: Sequence[Prompt]) -> Tensor:
        """The phrases' share of every patch, (B, h, w); `segmentation.scores` has a column for every owner."""
        scores, grid = segmentation.scores, segmentation.grid
        wanted = {label for word in words_in(self.request.words) for label in labels_of_phrases(word, prompts)}
        columns = [label for labels in segmentation.score_labels for label in labels]
        own = [column for column, label in enumerate(columns) if label in wanted]
        if scores is None or not own:
            return torch.zeros(segmentation.labels.shape, device=segmentation.labels.device)
        return soft_mask(TokenMaps(scores, grid, renormalised=True), own, grid)

    def mask(self, images: int, latent: Grid, fallback: Tensor) -> Tensor:
        """(B, T·H, W) fp32 in 0…1 for `images` latents of T frames.

        fallback  (B or 1, T·H, W): what holds without a region of these images, and outside the allowed share.
        """
        if not self._regions or self._allowed is None or len(self._allowed) != images:
            return fallback.expand(images, -1, -1)
        frames = rearrange(self._blended(), "b (t h) w -> (b t) h w", t=latent.frames)
        frames = self._enlarged(frames, latent.frame)
        if self.request.mode == "stretched":
            whole = rearrange(frames, "(b t) h w -> b (t h) w", t=latent.frames)
            frames = rearrange(stretch(whole), "b (t h) w -> (b t) h w", t=latent.frames)
        frames = feather(frames, self.request.feather)
        region = rearrange(frames, "(b t) h w -> b (t h) w", t=latent.frames)
        return torch.where(self._allowed[:, None, None], region, fallback)

    def _blended(self) -> Tensor:
        """(B, h, w): the mean of the regions whose share was allowed."""
        if len(self._regions) == 1:
            return self._regions[0][0]
        regions, allowed = (torch.stack(parts) for parts in zip(*self._regions, strict=True))
        kept = torch.where(allowed[..., None, None], regions, 0.0).sum(dim=0)
        return kept / allowed.sum(dim=0).clamp(min=1)[:, None, None]

    def _enlarged(self, region: Tensor, size: Grid) -> Tensor:
        """A region (b, h, w) on images of `size`: whole patches where it is hard, else between them."""
        if self.request.mode == "hard":
            return nearest(region, size)
        values = bilinear(rearrange(region, "b h w -> b (h w) 1"), Grid(*region.shape[1:]), size)
        return rearrange(values, "b (h w) 1 -> b h w", h=size.h)

    @property
    def followed(self) -> bool:
        """Whether there was ever a segmentation to follow."""
        return len(self._regions) > 0

    def fell_back(self) -> bool:
        """Whether a region ever left the allowed share; waits for the device."""
        return self._always_allowed is not None and not bool(self._always_allowed)
