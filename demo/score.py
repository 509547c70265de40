"""Does a picture show what was asked for? A judge with templates, and no learning.

For every asked colour the picture is unmixed into how much of that colour each pixel holds over the
background (a soft alpha), and that alpha is compared with every shape at every size and place. A phrase is
right when the best of all templates has the asked shape and explains the alpha well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange
from torch import Tensor

from .world import COLOURS, MOST_SHAPES, SHAPES, SIZE, Description, coverage, distances, palette

WINDOW = 23
LARGEST_MISFIT = 0.35
"""A template explains an alpha when their squared difference is below this share of the template's own sum."""


@dataclass(frozen=True)
class Score:
    """One picture's verdict. `colours` and `shapes`: per phrase; `background` is None where it was unsaid."""

    colours: tuple[bool, ...]
    shapes: tuple[bool, ...]
    background: bool | None

    @property
    def phrases(self) -> tuple[bool, ...]:
        """Per phrase: colour and shape both right."""
        return tuple(c and s for c, s in zip(self.colours, self.shapes, strict=True))


@cache
def templates() -> tuple[Tensor, Tensor]:
    """Every shape at every size and half-pixel offset: (K, 1, 23, 23), and its index in `SHAPES`: (K,)."""
    middle = WINDOW / 2
    ramp = torch.arange(WINDOW) + 0.5
    offset = torch.tensor([0.0, 0.5])
    radius = torch.arange(8.0, 21.5, 0.5) / 2
    r, oy, ox, y, x = torch.meshgrid(radius, offset, offset, ramp - middle, ramp - middle, indexing="ij")
    shapes = rearrange(coverage(distances(x - ox, y - oy, r)), "r oy ox h w s -> (r oy ox s) 1 h w")
    return shapes, torch.arange(len(SHAPES)).repeat(len(shapes) // len(SHAPES))


def find_background(images: Tensor) -> tuple[Tensor, Tensor]:
    """The commonest colour: its index in `COLOURS` (N,), and its mean over the pixels that show it (N, 3)."""
    pixels = rearrange(images, "n c h w -> n (h w) c")
    nearest = torch.cdist(pixels, palette().to(images)).argmin(-1)
    share = torch.nn.functional.one_hot(nearest, len(COLOURS)).float()
    winner = share.mean(1).argmax(-1)
    mine = (nearest == winner[:, None]).to(images)
    mean = torch.einsum("n p c, n p -> n c", pixels, mine) / mine.sum(1, keepdim=True)
    return winner, mean


def soft_alpha(images: Tensor, background: Tensor, colour: Tensor) -> Tensor:
    """How much of a colour each pixel holds over the background.

    images (N, 3, h, w); background (N, 3); colour (N, K, 3) -> (N, K, h, w), range [0, 1]. A pixel off the
    line between the two colours counts for less, the farther it is.
    """
    line = colour - background[:, None]
    from_background = images[:, None] - background[:, None, :, None, None]
    length = line.square().sum(-1).clamp(min=1e-6)[..., None, None]
    along = torch.einsum("n k c h w, n k c -> n k h w", from_background, line) / length
    along = along.clamp(0, 1)
    off = (from_background - along[:, :, None] * line[..., None, None]).square().sum(2)
    return along * torch.exp(-off / 0.15)


def match(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """The best template of each alpha (M, 32, 32): its index in `SHAPES` (M,) and its misfit (M,)."""
    shapes, kinds = templates()
    shapes = shapes.to(alpha)
    own = shapes.square().sum((1, 2, 3))
    misfits = []
    for part in alpha.split(64):
        correlation = torch.nn.functional.conv2d(part[:, None], shapes, padding=WINDOW // 2)
        best = correlation.amax((2, 3))
        misfits.append((own - 2 * best + part.square().sum((1, 2))[:, None]) / own)
    misfit, index = torch.cat(misfits).min(1)
    return kinds.to(index.device)[index], misfit


@torch.no_grad()
def score(images: Tensor, descriptions: list[Description]) -> list[Score]:
    """Judge N pictures (N, 3, 32, 32), range [-1, 1], against what was asked of each.

    A colour is right when its alpha covers at least 20 pixels' worth. Places are not judged.
    """
    if images.shape[-2:] != (SIZE, SIZE):
        raise ValueError(f"pictures must be {SIZE}x{SIZE}, got {tuple(images.shape[-2:])}")
    images = images.float().clamp(-1, 1)
    seen, mean = find_background(images)
    wanted = torch.zeros(len(images), MOST_SHAPES, dtype=torch.long)
    for row, d in zip(wanted, descriptions, strict=True):
        row[: len(d.phrases)] = torch.tensor([p.colour for p in d.phrases])
    alpha = soft_alpha(images, mean, palette().to(images)[wanted])
    kind, misfit = match(rearrange(alpha, "n k h w -> (n k) h w"))
    kind, misfit = (rearrange(z, "(n k) -> n k", k=MOST_SHAPES) for z in (kind, misfit))
    enough = alpha.sum((2, 3)) > 20
    out = []
    for i, d in enumerate(descriptions):
        rows = range(len(d.phrases))
        colours = tuple(bool(enough[i, k]) and d.phrases[k].colour != seen[i] for k in rows)
        shapes = tuple(bool(kind[i, k] == d.phrases[k].shape and misfit[i, k] < LARGEST_MISFIT) for k in rows)
        background = None if d.background is None else bool(seen[i] == d.background)
        out.append(Score(colours, shapes, background))
    return out
