"""The demo's world: what is in each scene of the picture book, the caption that says so, and whose every token is.

One to three things in named colours stand on a ground under a sky: "a purple balloon and a white cat on grass at
noon". `demo.drawing` makes images of 64×64 pixels and true owner maps of them. The same seed gives the same scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .words import (
    COLOURS,
    END,
    GROUND_THINGS,
    GROUNDS,
    LENGTH,
    NOUNS,
    PAD,
    SKIES,
    SKY_THINGS,
    START,
    VOCABULARY,
)

SIZE = 64
SLOTS = 3
"""Places for things: two on the ground, one in the sky."""

NOBODY, GROUND, SKY = -2, 3, 4
"""Owners of tokens and pixels beside the things, which are 0, 1, 2; only tokens such as "and" have nobody."""

CASTS = ((True, False, False), (False, False, True), (True, True, False), (True, False, True), (True, True, True))
CAST_WEIGHTS = (0.24, 0.10, 0.24, 0.27, 0.15)
"""Which slots are filled, and how often."""

SAID, PLACED = 0.6, 0.25
"""How often a caption names the ground, or the sky; how often it says where each of two things on the ground is."""

NEVER = 120
"""Number of an empty slot in the checksum of `held_out`: beyond every noun and colour."""


@dataclass(frozen=True)
class Scenes:
    """N scenes before they are drawn. Lengths in pixels, y pointing down; all on the CPU.

    present  (N, 3) bool: which slots are filled; noun, colour (N, 3) int64: indices into `NOUNS` and `COLOURS`,
             also in empty slots.
    x, y, half (N, 3): centre and half height of each thing; horizon (N,): where the ground begins.
    shade    (N, 3, 3): what each thing's colour differs by from its name's, RGB.
    ground, sky (N,) int64: indices into `GROUNDS` and `SKIES`; says_ground, says_sky, says_places (N,) bool.
    order    (N, 3) int64: slots in the order of the caption.
    """

    present: Tensor
    noun: Tensor
    colour: Tensor
    x: Tensor
    y: Tensor
    half: Tensor
    horizon: Tensor
    shade: Tensor
    ground: Tensor
    sky: Tensor
    says_ground: Tensor
    says_sky: Tensor
    says_places: Tensor
    order: Tensor

    def __len__(self) -> int:
        return len(self.noun)

    def __getitem__(self, rows: Tensor | slice) -> Scenes:
        """Some of the scenes: by a slice, a mask (N,) or indices."""
        return Scenes(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def said(self) -> Tensor:
        """Whether the caption names each owner: (N, 5), bool; things, ground, sky."""
        return torch.cat([self.present, self.says_ground[:, None], self.says_sky[:, None]], dim=1)


def layout(count: int, seed: int) -> Scenes:
    """Scenes from a seed."""
    rng = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=rng)

    cast = torch.multinomial(torch.tensor(CAST_WEIGHTS), count, replacement=True, generator=rng)
    present = torch.tensor(CASTS)[cast]
    first = torch.randint(len(GROUND_THINGS), (count,), generator=rng)
    second = (first + torch.randint(1, len(GROUND_THINGS), (count,), generator=rng)) % len(GROUND_THINGS)
    above = len(GROUND_THINGS) + torch.randint(len(SKY_THINGS), (count,), generator=rng)
    colour = uniform(count, len(COLOURS)).argsort(1)[:, :SLOTS]

    horizon = 34 + 10 * uniform(count)
    foot = torch.maximum(horizon[:, None] + 5 + 9 * uniform(count, 2), torch.tensor(48.0)).clamp(max=61)
    pair, alone_above = present[:, 1], ~present[:, 0]
    smallest = torch.where(pair, 9.5, 11.0)
    largest = torch.where(pair, 12.5, 15.5)
    half = smallest[:, None] + (largest - smallest)[:, None] * uniform(count, 2)
    half = torch.where(present[:, 2:], torch.minimum(half, (foot - 24) / 2), half)

    swapped = uniform(count) < 0.5
    left = torch.where(pair, 15 + 5 * uniform(count), 17 + 30 * uniform(count))
    right = 44 + 5 * uniform(count)
    swap = pair & swapped
    x = torch.stack([torch.where(swap, right, left), torch.where(swap, left, right)], dim=1)
    half_above = torch.where(alone_above, 9 + 3 * uniform(count), 6.5 + 2.5 * uniform(count))
    x = torch.cat([x, 10 + 44 * uniform(count, 1)], dim=1)
    y = torch.cat([foot - half, (half_above + 2 + 4 * uniform(count))[:, None]], dim=1)

    ground, sky = torch.randint(4, (2, count), generator=rng)
    return Scenes(
        present=present,
        noun=torch.stack([first, second, above], dim=1),
        colour=colour,
        x=x,
        y=y,
        half=torch.cat([half, half_above[:, None]], dim=1),
        horizon=horizon,
        ground=ground,
        sky=sky,
        says_ground=uniform(count) < SAID,
        says_sky=uniform(count) < SAID,
        says_places=(uniform(count) < PLACED) & pair,
        order=uniform(count, SLOTS).argsort(1),
        shade=torch.randn(count, SLOTS, 3, generator=rng) * 0.025,
    )


def held_out(scenes: Scenes) -> Tensor:
    """True for one content in ten, (N,), whatever its arrangement and caption: training never sees these."""
    thing = torch.where(scenes.present, scenes.noun * len(COLOURS) + scenes.colour, NEVER)
    contents = torch.cat([thing, scenes.ground[:, None], scenes.sky[:, None]], dim=1)
    checksum = (contents * torch.tensor([7919, 104729, 1299709, 15485863, 32452843])).sum(1)
    return checksum * 2654435761 % 2**32 // 2**16 % 10 == 0


def held_out_scenes(count: int, seed: int) -> Scenes:
    """Scenes whose contents training never saw."""
    scenes = layout(14 * count, seed)
    return scenes[held_out(scenes).nonzero()[:count, 0]]


def training_scenes(count: int, seed: int) -> Scenes:
    """At most `count` scenes: those that are not held out."""
    scenes = layout(count, seed)
    return scenes[~held_out(scenes)]


def captions(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Token ids of the captions and the owner of every token: (N, 24) int64 each."""
    count = len(scenes)
    rows = torch.arange(count)
    said: list[tuple[Tensor, Tensor, Tensor]] = []

    def say(token: Tensor | int | str, owner: Tensor | int, where: Tensor | bool) -> None:
        token = _ID[token] if isinstance(token, str) else token
        token, owner, where = (torch.as_tensor(value).expand(count) for value in (token, owner, where))
        said.append((token, owner, where))

    say(START, NOBODY, True)
    is_left = scenes.x[:, 0] < scenes.x[:, 1]
    anything = torch.zeros(count, dtype=torch.bool)
    for slot in scenes.order.unbind(1):
        here = scenes.present[rows, slot]
        colour, noun = scenes.colour[rows, slot], scenes.noun[rows, slot]
        say("and", NOBODY, here & anything)
        say(torch.where(colour == COLOURS.index("orange"), _ID["an"], _ID["a"]), slot, here)
        say(_ids(COLOURS)[colour], slot, here)
        say(_ids(NOUNS)[noun], slot, here)
        placed = here & scenes.says_places & (slot < 2)
        say("on", slot, placed)
        say("the", slot, placed)
        say(torch.where(is_left == (slot == 0), _ID["left"], _ID["right"]), slot, placed)
        anything = anything | here
    say("on", GROUND, scenes.says_ground)
    say(_ids(GROUNDS)[scenes.ground], GROUND, scenes.says_ground)
    say(_ids(("at", "at", "at", "in"))[scenes.sky], SKY, scenes.says_sky)
    say(_ids(SKIES)[scenes.sky], SKY, scenes.says_sky)
    say(END, NOBODY, True)

    tokens, owners, kept = (torch.stack(column, dim=1) for column in zip(*said, strict=True))
    tokens, owners = torch.where(kept, tokens, PAD), torch.where(kept, owners, NOBODY)
    order = (~kept).int().argsort(dim=1, stable=True)[:, :LENGTH]
    return tokens.gather(1, order), owners.gather(1, order)


_ID = {word: index for index, word in enumerate(VOCABULARY)}


def _ids(words: tuple[str, ...]) -> Tensor:
    return torch.tensor([_ID[word] for word in words])


def spell(tokens: Tensor) -> str:
    """The words of a row of token ids, START, END and padding left out."""
    return " ".join(VOCABULARY[token] for token in tokens.tolist() if token > PAD)
