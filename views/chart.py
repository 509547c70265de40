"""Line charts with Pillow alone: curves are drawn at four times the size and reduced, text is not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Picture, paper
from .palette import RULE
from .text import FAINT, SIZE, Colour, height_of, width_of, write

_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Line:
    """One curve; NaN leaves a gap."""

    y: np.ndarray
    colour: Colour
    thickness: float = 2.0


def ticks(low: float, high: float, max_count: int = 6) -> list[float]:
    """At most `max_count` round numbers from `low` to `high`."""
    step = 10.0 ** math.floor(math.log10(max(high - low, 1e-12)))
    while (high - low) / step + 1 > max_count:
        step *= 2 if f"{step:e}"[0] in "15" else 2.5
    while (high - low) / step < max_count / 3:
        step /= 2
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def top_of(*groups: Sequence[Line]) -> float:
    """A round number above all curves of these charts."""
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
    """Curves over x, from 0 to `top`, in a plot of height × width pixels with title, axes and labels."""
    y_ticks = ticks(0, top)
    digits = 0 if all(float(tick).is_integer() for tick in y_ticks) else 2 if y_ticks[1] < 0.1 else 1
    y_labels = [f"{tick:.{digits}f}" for tick in y_ticks]
    left = max(width_of(text, size) for text in y_labels) + 9
    head, foot = height_of(size) + 8, 2 * height_of(size) + 10
    image = paper(head + height + foot, left + width + 12)
    low, high = float(x.min()), float(max(x.max(), x.min() + 1))

    def to_x(value: float) -> float:
        return (value - low) / (high - low) * (width - 1)

    def to_y(value: float) -> float:
        return (1 - value / top) * (height - 1)

    plot = Image.new("RGB", (width * _SUPERSAMPLING, height * _SUPERSAMPLING), "white")
    pen = ImageDraw.Draw(plot)
    for tick in y_ticks:
        pen.line(
            [(0, to_y(tick) * _SUPERSAMPLING), (width * _SUPERSAMPLING, to_y(tick) * _SUPERSAMPLING)],
            fill=(232, 232, 232),
            width=_SUPERSAMPLING,
        )
    for line in lines:
        _draw(
            pen,
            [(to_x(a) * _SUPERSAMPLING, to_y(b) * _SUPERSAMPLING) for a, b in zip(x, line.y, strict=True)],
            line,
        )
    reduced = plot.resize((width, height), Image.Resampling.LANCZOS)
    image[head : head + height, left : left + width] = np.asarray(reduced)
    image[head : head + height, left - 1] = RULE
    image[head + height, left - 1 : left + width] = RULE

    write(image, left, 0, title, size=size)
    for tick, text in zip(y_ticks, y_labels, strict=True):
        write(image, left - 7, head + to_y(tick), text, size=size, colour=FAINT, anchor="rm")
    for tick in ticks(low, high):
        write(image, left + to_x(tick), head + height + 5, f"{tick:g}", size=size, colour=FAINT, anchor="ma")
    write(
        image,
        left + width / 2,
        head + height + height_of(size) + 8,
        x_label,
        size=size,
        colour=FAINT,
        anchor="ma",
    )
    return image


def _draw(pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], line: Line) -> None:
    """One curve, interrupted where it is not finite; an isolated point is a dot."""
    thickness = round(line.thickness * _SUPERSAMPLING)
    half = thickness / 2
    segment: list[tuple[float, float]] = []
    for point in [*points, (math.nan, math.nan)]:
        if math.isfinite(point[1]):
            segment.append(point)
        elif segment:
            if len(segment) > 1:
                pen.line(segment, fill=line.colour, width=thickness, joint="curve")
            for x, y in (segment[0], segment[-1]):
                pen.ellipse([x - half, y - half, x + half, y + half], line.colour)
            segment = []
