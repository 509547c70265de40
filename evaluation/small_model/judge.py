"""The judge: a small classifier of scenes, trained on true scenes alone, that says what an image shows.

It answers which nouns are there, in which colours, on which ground and under which sky; its features serve the
Fréchet distances. A head of its own says what every patch of the 16×16 grid shows, from the same features: so the
regions of an image that a model drew are known, too. It never sees a drawn image while it learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from safetensors.torch import load_file, save
from torch import Tensor, nn

from demo.words import COLOURS, GROUNDS, NOUNS, SKIES
from demo.world import Scenes

from ..store import Pixels, write_whole

WEIGHTS = Path(__file__).with_name("judge.safetensors")
GRID = 16
"""Patches per side: those of the U-Net's largest attention grid."""

GROUND, SKY = len(NOUNS), len(NOUNS) + 1
"""What a patch shows beside the nouns, which come first."""

KINDS = ("things", "ground", "sky")
_SPREAD = 2.77
"""Mean of log-sum-exp over 16 places of equal logits: it is taken off, so that 0 stays even odds."""


class Judge(nn.Module):
    """Images (N, 3, 64, 64), range −1…1, to answers, features and patches."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        widths = [3, *(width * factor for factor in (1, 2, 3, 4))]
        self.body = nn.Sequential(*(_stage(*pair) for pair in zip(widths, widths[1:], strict=False)))
        self.nouns = nn.Conv2d(widths[4], len(NOUNS), 1)
        self.colours = nn.Conv2d(widths[4], len(NOUNS) * len(COLOURS), 1)
        self.grounds = nn.Linear(widths[4], len(GROUNDS))
        self.skies = nn.Linear(widths[4], len(SKIES))
        self.patches = nn.Sequential(
            nn.Conv2d(sum(widths[2:]), 2 * width, 1), nn.SiLU(), nn.Conv2d(2 * width, len(NOUNS) + 2, 1)
        )

    def stages(self, images: Tensor) -> list[Tensor]:
        """Feature maps of 16×16, 8×8 and 4×4 places."""
        found = [images]
        for stage in self.body:
            found.append(stage(found[-1]))
        return found[2:]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits: noun there (N, 15), colour of every noun (N, 15, 8), ground (N, 4), sky (N, 4)."""
        last = self.stages(images)[-1]
        nouns = rearrange(self.nouns(last), "n noun h w -> n noun (h w)")
        colours = rearrange(self.colours(last), "n (noun colour) h w -> n noun colour (h w)", noun=len(NOUNS))
        colours = (colours * nouns.softmax(dim=-1)[:, :, None]).sum(dim=-1)
        pooled = reduce(last, "n c h w -> n c", "mean")
        return nouns.logsumexp(dim=-1) - _SPREAD, colours, self.grounds(pooled), self.skies(pooled)

    def patch_logits(self, stages: Sequence[Tensor]) -> Tensor:
        """What every patch shows, a noun, the ground or the sky: (N, 17, 16, 16)."""
        side = (GRID, GRID)
        larger = [F.interpolate(stage, size=side, mode="bilinear", align_corners=False) for stage in stages[1:]]
        return self.patches(torch.cat([stages[0], *larger], dim=1))


def _stage(before: int, after: int) -> nn.Sequential:
    """Two convolutions, the second of which halves the sides."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        nn.GroupNorm(8, after),
        nn.SiLU(),
        nn.Conv2d(after, after, 3, stride=2, padding=1),
        nn.GroupNorm(8, after),
        nn.SiLU(),
    )


@dataclass(frozen=True)
class Answers:
    """What the judge says of N images.

    nouns    (N, 15) bool: is it there; colours (N, 15): index of its colour, should it be there.
    grounds, skies  (N,) indices.
    patches  (N, 16, 16): a noun's index, `GROUND` or `SKY`.
    """

    nouns: Tensor
    colours: Tensor
    grounds: Tensor
    skies: Tensor
    patches: Tensor

    def things_right(self, asked: Scenes) -> Tensor:
        """Whether each slot's noun is there in its colour: (N, 3); meaningless for empty slots."""
        noun, colour = asked.noun.to(self.nouns.device), asked.colour.to(self.nouns.device)
        return self.nouns.gather(1, noun) & (self.colours.gather(1, noun) == colour)


@torch.no_grad()
def answers(judge: Judge, images: Tensor) -> Answers:
    """What N images (N, 3, 64, 64), range −1…1, show."""
    nouns, colours, grounds, skies = judge(images)
    patches = judge.patch_logits(judge.stages(images)).argmax(dim=1)
    return Answers(nouns > 0, colours.argmax(dim=-1), grounds.argmax(dim=-1), skies.argmax(dim=-1), patches)


def kinds(patches: Tensor) -> Tensor:
    """Index in `KINDS` of what patches show."""
    return (patches - GROUND + 1).clamp(min=0)


WHOLE_FEATURES, PATCH_FEATURES = 192, 96


def feature_columns() -> dict[str, slice]:
    """Where `features` keeps those of the whole image and of every kind of region."""
    columns = {"whole": slice(0, WHOLE_FEATURES)}
    for place, kind in enumerate(KINDS):
        start = WHOLE_FEATURES + place * PATCH_FEATURES
        columns[kind] = slice(start, start + PATCH_FEATURES)
    return columns


@torch.no_grad()
def features(judge: Judge, images: Tensor) -> Tensor:
    """Features of N images: the last map's mean, then the 16×16 map's mean over the patches of every kind.

    NaN where an image shows no such patch.
    """
    stages = judge.stages(images)
    shown = kinds(judge.patch_logits(stages).argmax(dim=1))
    parts = [reduce(stages[-1], "n c h w -> n c", "mean")]
    for kind in range(len(KINDS)):
        mask = (shown == kind)[:, None]
        total = reduce(torch.where(mask, stages[0], 0.0), "n c h w -> n c", "sum")
        parts.append(total / reduce(mask.to(total), "n 1 h w -> n 1", "sum"))
    return torch.cat(parts, dim=1)


def to_tensor(images: Sequence[Pixels], device: torch.device | str = "cpu") -> Tensor:
    """Images (h, w, 3) uint8 as (N, 3, h, w), range −1…1."""
    pixels = torch.from_numpy(np.stack(images)).to(device)
    return rearrange(pixels, "n h w c -> n c h w").float() / 127.5 - 1


def load_judge(path: Path = WEIGHTS, device: torch.device | str = "cpu") -> Judge:
    """The trained judge in float32, in eval mode."""
    judge = Judge()
    judge.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return judge.to(device).eval()


def save_judge(judge: Judge, path: Path = WEIGHTS) -> None:
    """Write the weights in float16."""
    state = {
        name: value.detach().to("cpu", torch.float16).contiguous() for name, value in judge.state_dict().items()
    }
    write_whole(path, save(state, {"format": "pt"}))
