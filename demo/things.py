"""The fifteen things as parts, from back to front: (signed distance, paint), in units of half the height."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .shapes import box, capsule, circle, crescent, ellipse, heart, polygon, star
from .words import NOUNS

Part = tuple[Tensor, str]
NAMED = "named"
"""The paint of the parts that the caption names the colour of."""

PAINTS = {
    "roof": (0.42, 0.22, 0.16),
    "dark": (0.20, 0.17, 0.22),
    "lamp": (1.0, 0.90, 0.45),
    "wood": (0.45, 0.30, 0.18),
    "glass": (0.70, 0.88, 0.97),
    "cream": (0.96, 0.90, 0.78),
    "cloth": (0.97, 0.97, 0.97),
    "stem": (0.20, 0.50, 0.20),
    "black": (0.06, 0.06, 0.08),
}
OUTLINE = (0.13, 0.11, 0.16)


def parts(noun: str, x: Tensor, y: Tensor) -> list[Part]:
    """The parts of a thing at offsets x, y from its centre."""
    return _PARTS[noun](x, y)


def house(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (box(x, y, 0, 0.45, 0.72, 0.55), NAMED),
        (polygon(x, y, (0, -1.0), (0.95, -0.05), (-0.95, -0.05)), "roof"),
        (box(x, y, 0.28, 0.62, 0.17, 0.38), "dark"),
        (box(x, y, -0.32, 0.40, 0.20, 0.20), "lamp"),
    ]


def tree(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (box(x, y, 0, 0.65, 0.14, 0.35), "wood"),
        (circle(x, y, 0, -0.38, 0.62), NAMED),
        (circle(x, y, -0.38, -0.02, 0.42), NAMED),
        (circle(x, y, 0.38, -0.02, 0.42), NAMED),
    ]


def car(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (box(x, y, 0, -0.05, 0.62, 0.42, 0.25), NAMED),
        (box(x, y, 0, 0.42, 1.15, 0.35, 0.2), NAMED),
        (box(x, y, -0.26, -0.10, 0.22, 0.20, 0.08), "glass"),
        (box(x, y, 0.26, -0.10, 0.22, 0.20, 0.08), "glass"),
        (circle(x, y, -0.62, 0.74, 0.26), "dark"),
        (circle(x, y, 0.62, 0.74, 0.26), "dark"),
    ]


def mushroom(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (box(x, y, 0, 0.45, 0.30, 0.55, 0.15), "cream"),
        (ellipse(x, y, 0, 0.05, 0.95, 1.0).maximum(y - 0.08), NAMED),
        (circle(x, y, -0.42, -0.28, 0.17), "cloth"),
        (circle(x, y, 0.12, -0.58, 0.18), "cloth"),
        (circle(x, y, 0.50, -0.18, 0.15), "cloth"),
    ]


def rocket(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (polygon(x, y, (-0.30, 0.30), (-0.30, 0.85), (-0.72, 0.95)), "dark"),
        (polygon(x, y, (0.30, 0.30), (0.72, 0.95), (0.30, 0.85)), "dark"),
        (ellipse(x, y, 0, 0.15, 0.46, 1.15).maximum(y - 0.85), NAMED),
        (circle(x, y, 0, -0.15, 0.20), "glass"),
    ]


def tent(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (polygon(x, y, (0, -0.85), (1.15, 1.0), (-1.15, 1.0)), NAMED),
        (polygon(x, y, (0, -0.05), (0.38, 1.0), (-0.38, 1.0)), "dark"),
    ]


def flower(x: Tensor, y: Tensor) -> list[Part]:
    petals = ((0.0, -1.0), (0.95, -0.31), (0.59, 0.81), (-0.59, 0.81), (-0.95, -0.31))
    return [
        (box(x, y, 0, 0.45, 0.07, 0.55), "stem"),
        (ellipse(x, y, 0.26, 0.62, 0.22, 0.11), "stem"),
        *((circle(x, y, 0.42 * right, -0.42 + 0.42 * down, 0.27), NAMED) for right, down in petals),
        (circle(x, y, 0, -0.42, 0.22), "lamp"),
    ]


def cactus(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (capsule(x, y, 0, -0.75, 0, 0.98, 0.24), NAMED),
        (capsule(x, y, -0.62, -0.25, -0.62, 0.15, 0.16), NAMED),
        (capsule(x, y, -0.62, 0.2, -0.1, 0.25, 0.14), NAMED),
        (capsule(x, y, 0.60, -0.45, 0.60, 0.0, 0.16), NAMED),
        (capsule(x, y, 0.60, 0.05, 0.1, 0.1, 0.14), NAMED),
    ]


def boat(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (box(x, y, 0, -0.2, 0.06, 0.75), "wood"),
        (polygon(x, y, (0.08, -0.95), (0.80, 0.32), (0.08, 0.32)), "cloth"),
        (polygon(x, y, (-0.08, -0.60), (-0.08, 0.32), (-0.58, 0.32)), "cloth"),
        (polygon(x, y, (-1.0, 0.42), (1.0, 0.42), (0.68, 1.0), (-0.68, 1.0)), NAMED),
    ]


def cat(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (capsule(x, y, 0.45, 0.80, 0.85, 0.15, 0.10), NAMED),
        (ellipse(x, y, 0, 0.52, 0.52, 0.50), NAMED),
        (polygon(x, y, (-0.42, -0.98), (-0.08, -0.55), (-0.52, -0.35)), NAMED),
        (polygon(x, y, (0.42, -0.98), (0.52, -0.35), (0.08, -0.55)), NAMED),
        (circle(x, y, 0, -0.28, 0.50), NAMED),
        (circle(x, y, -0.19, -0.34, 0.11), "black"),
        (circle(x, y, 0.19, -0.34, 0.11), "black"),
        (ellipse(x, y, 0, -0.10, 0.10, 0.07), "dark"),
    ]


def balloon(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (box(x, y, 0, 0.86, 0.17, 0.14), "wood"),
        (capsule(x, y, -0.35, 0.2, -0.13, 0.75, 0.035), "wood"),
        (capsule(x, y, 0.35, 0.2, 0.13, 0.75, 0.035), "wood"),
        (circle(x, y, 0, -0.26, 0.72), NAMED),
    ]


def kite(x: Tensor, y: Tensor) -> list[Part]:
    return [
        (capsule(x, y, 0, 0.6, 0.35, 1.0, 0.05), "dark"),
        (polygon(x, y, (0, -1.0), (0.68, -0.2), (0, 0.75), (-0.68, -0.2)), NAMED),
        (box(x, y, 0, -0.12, 0.035, 0.85), "dark"),
        (box(x, y, 0, -0.2, 0.66, 0.035), "dark"),
    ]


_PARTS: dict[str, Callable[[Tensor, Tensor], list[Part]]] = {
    **{
        thing.__name__: thing
        for thing in (house, tree, car, mushroom, rocket, tent, flower, cactus, boat, cat, balloon, kite)
    },
    "star": lambda x, y: [(star(x, y, 0, 0.05, 1.0), NAMED)],
    "moon": lambda x, y: [(crescent(x, y, 0, 0, 0.92), NAMED)],
    "heart": lambda x, y: [(heart(x, y, 0, 0, 0.95), NAMED)],
}
assert set(_PARTS) == set(NOUNS)
