"""The demo's world: shapes in named colours, with captions and the true mask of every phrase.

A scene holds one to three shapes that do not touch. Everything is drawn in one vectorised pass from signed
distances, so edges are anti-aliased and thousands of pictures a second come from one core. The same seed
gives the same scenes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor

SIZE = 32
MOST_SHAPES = 3
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (0.86, 0.13, 0.15),
    "cyan": (0.20, 0.80, 0.86),
    "yellow": (0.98, 0.89, 0.22),
    "green": (0.13, 0.62, 0.25),
    "blue": (0.14, 0.34, 0.90),
    "purple": (0.58, 0.18, 0.72),
    "white": (0.96, 0.96, 0.96),
    "black": (0.08, 0.08, 0.10),
}
PLACES = ("left", "right", "top", "bottom")
WORDS = ("a", "and", "on", "the", "background", *PLACES, *COLOURS, *SHAPES)

NOBODY = -2
"""Owner of a word that names nothing in the picture."""
BACKGROUND = -1
"""Owner of the words of a background phrase; shapes are 0, 1, 2."""

DIAMETERS = ((14.0, 19.0), (11.0, 15.0), (10.0, 12.0))
"""Smallest and largest shape, in pixels, in scenes of one, two and three shapes."""
COUNT_WEIGHTS = (0.5, 0.38, 0.12)
BACKGROUND_PHRASES = 0.25
PLACE_PHRASES = 0.3


def palette() -> Tensor:
    """The named colours in the order of `COLOURS`: (8, 3), float, range [-1, 1]."""
    return torch.tensor(list(COLOURS.values())) * 2 - 1


@dataclass(frozen=True)
class Phrase:
    """A shape of a scene in words: indices into `COLOURS` and `SHAPES`, and a word of `PLACES` or None."""

    colour: int
    shape: int
    place: str | None


@dataclass(frozen=True)
class Description:
    """What is said about one scene. `background` indexes `COLOURS`; it is None where it goes unsaid."""

    phrases: tuple[Phrase, ...]
    background: int | None

    def words(self) -> list[tuple[str, int]]:
        """The caption's words, each with its owner: a phrase's index, `BACKGROUND` or `NOBODY`."""
        colours, out = list(COLOURS), []
        for i, phrase in enumerate(self.phrases):
            if i:
                out.append(("and", NOBODY))
            said = ["a", colours[phrase.colour], SHAPES[phrase.shape]]
            if phrase.place:
                said += ["on", "the", phrase.place]
            out += [(word, i) for word in said]
        if self.background is not None:
            said = ["on", "a", colours[self.background], "background"]
            out += [(word, BACKGROUND) for word in said]
        return out

    @property
    def caption(self) -> str:
        """For example "a red circle on the left and a blue square on a green background"."""
        return " ".join(word for word, _ in self.words())

    @property
    def held_out(self) -> bool:
        """True for one caption in ten, chosen by its text alone: training never sees these."""
        return zlib.crc32(self.caption.encode()) % 10 == 0


@dataclass(frozen=True)
class Scenes:
    """N pictures, what is said about them, and what is where.

    images (N, 3, 32, 32), float, range [-1, 1]; masks (N, 3, 32, 32), bool: the pixels of each shape, all
    False for shapes that a scene lacks; colours (N,): the background's index in `COLOURS`, said or not.
    """

    images: Tensor
    masks: Tensor
    backgrounds: Tensor
    descriptions: list[Description]

    @property
    def background_mask(self) -> Tensor:
        """The pixels of no shape: (N, 32, 32), bool."""
        return ~self.masks.any(1)

    def __len__(self) -> int:
        return len(self.descriptions)


def distances(x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in pixels, negative inside, to each of `SHAPES`: stacked in a new last axis.

    x, y: offsets from the centre, y pointing down; radius: half of the diameter; all broadcastable.
    """
    circle = torch.hypot(x, y) - radius
    square = torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    slope = 2 / 5**0.5
    side = x.abs() * slope + (-y - radius) * slope / 2
    triangle = torch.maximum(side, y - 0.85 * radius)
    near, far = torch.minimum(x.abs(), y.abs()), torch.maximum(x.abs(), y.abs())
    cross = torch.maximum(near - 0.34 * radius, far - radius)
    return torch.stack(torch.broadcast_tensors(circle, square, triangle, cross), -1)


def coverage(distance: Tensor) -> Tensor:
    """How much of a pixel lies inside: an anti-aliased edge one pixel wide, range [0, 1]."""
    return (0.5 - distance).clamp(0, 1)


def _place(count: Tensor, diameter: Tensor, rng: torch.Generator, tries: int = 160) -> tuple[Tensor, Tensor]:
    """Centres (N, 3, 2) as (x, y) of shapes that fit and keep a pixel apart, and whether one was found."""
    room = rearrange(diameter / 2 + 0.5, "n k -> n 1 k 1")
    where = torch.rand(len(count), tries, MOST_SHAPES, 2, generator=rng)
    where = room + where * (SIZE - 2 * room)
    ok = torch.ones(len(count), tries, dtype=torch.bool)
    for i in range(MOST_SHAPES):
        for j in range(i):
            gap = (where[:, :, i] - where[:, :, j]).abs().amax(-1)
            apart = gap > (diameter[:, i] + diameter[:, j])[:, None] / 2 + 1
            ok &= apart | (count <= i)[:, None]
    first = ok.int().argmax(1)
    return where[torch.arange(len(count)), first], ok.any(1)


def _texture(n: int, channels: int, depth: float, rng: torch.Generator) -> Tensor:
    """A slow gradient and a soft ripple, different in every picture: (n, channels, 32, 32), around 0."""
    ramp = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    angle, phase, waves = torch.rand(3, n, channels, 1, 1, generator=rng)
    along = x * (angle * 6.283).cos() + y * (angle * 6.283).sin()
    ripple = torch.sin(along * (4 + 5 * waves) + phase * 6.283)
    return depth * (along + 0.4 * ripple)


def _say(
    colour: list[int], shape: list[int], centre: list[list[float]], background: int, rng: torch.Generator
) -> Description:
    """Put one scene into words: sometimes with the places of its shapes, sometimes with its background."""
    name_places, name_background = torch.rand(2, generator=rng).tolist()
    phrases = []
    for c, s, (x, y) in zip(colour, shape, centre, strict=True):
        place = None
        dx, dy = x - SIZE / 2, y - SIZE / 2
        if name_places < PLACE_PHRASES and len(colour) < MOST_SHAPES and max(abs(dx), abs(dy)) > 3:
            horizontal = abs(dx) >= abs(dy)
            place = ("left", "right")[dx > 0] if horizontal else ("top", "bottom")[dy > 0]
        phrases.append(Phrase(c, s, place))
    return Description(tuple(phrases), background if name_background < BACKGROUND_PHRASES else None)


def draw(n: int, seed: int, count_weights: tuple[float, float, float] = COUNT_WEIGHTS) -> Scenes:
    """Draw n scenes from a seed; `count_weights` are the odds of one, two and three shapes."""
    rng = torch.Generator().manual_seed(seed)
    count = 1 + torch.multinomial(torch.tensor(count_weights), n, replacement=True, generator=rng)
    low, high = torch.tensor(DIAMETERS)[count - 1].unbind(-1)
    diameter = low[:, None] + (high - low)[:, None] * torch.rand(n, MOST_SHAPES, generator=rng)
    centre, found = _place(count, diameter, rng)
    count = torch.where(found, count, 1)
    present = torch.arange(MOST_SHAPES) < count[:, None]
    shape = torch.randint(len(SHAPES), (n, MOST_SHAPES), generator=rng)
    colour = torch.rand(n, len(COLOURS), generator=rng).argsort(1)
    background, colour = colour[:, MOST_SHAPES], colour[:, :MOST_SHAPES]

    ramp = torch.arange(SIZE) + 0.5
    x = ramp - centre[..., 0, None, None]
    y = ramp[:, None] - centre[..., 1, None, None]
    distance = distances(x, y, diameter[..., None, None] / 2)
    index = repeat(shape, "n k -> n k h w 1", h=SIZE, w=SIZE)
    alpha = coverage(distance.gather(-1, index).squeeze(-1)) * present[..., None, None]

    tints = palette()
    jitter = 0.05 * torch.randn(n, MOST_SHAPES + 1, 3, 1, 1, generator=rng)
    picture = rearrange(tints[background], "n c -> n c 1 1") + jitter[:, MOST_SHAPES]
    picture = picture + _texture(n, 1, 0.06, rng)
    shade = _texture(n, MOST_SHAPES, 0.05, rng)
    for k in range(MOST_SHAPES):
        paint = rearrange(tints[colour[:, k]], "n c -> n c 1 1") + jitter[:, k] + shade[:, k, None]
        picture = torch.lerp(picture, paint, alpha[:, k, None])
    picture = picture + 0.012 * torch.randn(picture.shape, generator=rng)

    told = [
        _say(c[:k], s[:k], p[:k], b, rng)
        for k, c, s, p, b in zip(
            count.tolist(), colour.tolist(), shape.tolist(), centre.tolist(), background.tolist(), strict=True
        )
    ]
    return Scenes(picture.clamp(-1, 1), alpha > 0.5, background, told)


def pick(scenes: Scenes, held_out: bool) -> Scenes:
    """Only the scenes whose caption is, or is not, held out."""
    keep = [i for i, d in enumerate(scenes.descriptions) if d.held_out == held_out]
    rows = torch.tensor(keep, dtype=torch.long)
    told = [scenes.descriptions[i] for i in keep]
    return Scenes(scenes.images[rows], scenes.masks[rows], scenes.backgrounds[rows], told)


def held_out_scenes(n: int, seed: int) -> Scenes:
    """n scenes whose captions training never saw."""
    scenes = pick(draw(14 * n, seed), held_out=True)
    rows = torch.arange(n)
    return Scenes(scenes.images[rows], scenes.masks[rows], scenes.backgrounds[rows], scenes.descriptions[:n])


def patches(mask: Tensor, side: int) -> Tensor:
    """Share of each patch that a mask covers: (..., 32, 32) bool -> (..., side, side) float."""
    return reduce(mask.float(), "... (h p) (w q) -> ... h w", "mean", h=side, w=side)
