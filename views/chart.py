"""Line charts with Pillow alone: curves drawn four times as large and brought down, text at its own size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Picture, paper
from .palette import RULE
from .text import FAINT, SIZE, Colour, height_of, width_of, write

_FINER = 4


@dataclass(frozen=True)
class Line:
    """One curve; NaN leaves a gap."""

    y: np.ndarray
    colour: Colour
    thickness: float = 2.0


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most `most` of them."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12)))
    while (high - low) / step + 1 > most:
        step *= 2 if f"{step:e}"[0] in "15" else 2.5
    while (high - low) / step < most / 3:
        step /= 2
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def top_of(*groups: Sequence[Line]) -> float:
    """A round number above every curve of these charts."""
    peak = max([1e-6, *(float(y) for lines in groups for line in lines for y in line.y if np.isfinite(y))])
    step = ticks(0, peak)[1]
    return math.ceil(peak / step - 1e-9) * step


def chart(
    x: np.ndarray,
    lines: Sequence[Line],
    *,
    title: str,
    x_label: str,
    top: float,
    height: int = 260,
    width: int = 300,
    size: int = SIZE,
) -> Picture:
    """Curves over x, from 0 to `top`, in a plot of height × width pixels with its title, axes and numbers."""
    y_ticks = ticks(0, top)
    digits = 0 if all(float(tick).is_integer() for tick in y_ticks) else 2 if y_ticks[1] < 0.1 else 1
    y_texts = [f"{tick:.{digits}f}" for tick in y_ticks]
    left = max(width_of(text, size) for text in y_texts) + 9
    head, foot = height_of(size) + 8, 2 * height_of(size) + 10
    picture = paper(head + height + foot, left + width + 12)
    low, high = float(x.min()), float(max(x.max(), x.min() + 1))

    def across(value: float) -> float:
        return (value - low) / (high - low) * (width - 1)

    def up(value: float) -> float:
        return (1 - value / top) * (height - 1)

    plot = Image.new("RGB", (width * _FINER, height * _FINER), "white")
    pen = ImageDraw.Draw(plot)
    for tick in y_ticks:
        pen.line([(0, up(tick) * _FINER), (width * _FINER, up(tick) * _FINER)], fill=(232, 232, 232), width=_FINER)
    for line in lines:
        _draw(pen, [(across(a) * _FINER, up(b) * _FINER) for a, b in zip(x, line.y, strict=True)], line)
    small = plot.resize((width, height), Image.Resampling.LANCZOS)
    picture[head : head + height, left : left + width] = np.asarray(small)
    picture[head : head + height, left - 1] = RULE
    picture[head + height, left - 1 : left + width] = RULE

    write(picture, left, 0, title, size=size)
    for tick, text in zip(y_ticks, y_texts, strict=True):
        write(picture, left - 7, head + up(tick), text, size=size, colour=FAINT, anchor="rm")
    for tick in ticks(low, high):
        write(picture, left + across(tick), head + height + 5, f"{tick:g}", size=size, colour=FAINT, anchor="ma")
    write(
        picture,
        left + width / 2,
        head + height + height_of(size) + 8,
        x_label,
        size=size,
        colour=FAINT,
        anchor="ma",
    )
    return picture


def _draw(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], line: Line) -> None:
    """One curve in pieces between its gaps, where it is not finite; a lone point is a dot."""
    thickness = round(line.thickness * _FINER)
    half = thickness / 2
    piece: list[tuple[float, float]] = []
    for point in [*points, (math.nan, math.nan)]:
        if math.isfinite(point[1]):
            piece.append(point)
        elif piece:
            if len(piece) > 1:
                pen.line(piece, fill=line.colour, width=thickness, joint="curve")
            for x, y in (piece[0], piece[-1]):
                pen.ellipse([x - half, y - half, x + half, y + half], line.colour)
            piece = []
