"""How strongly each place is guided: γ·r as a heat map, white at the γ that CFG alone would use."""

import math

import numpy as np

from .canvas import Picture, beside, enlarge, frame, margin, paper
from .core import Evaluation
from .palette import diverging
from .segmentation import TILE, tile_size
from .text import FAINT, SIZE, height_of, width_of, write

BAR_WIDTH = 16
SMALLEST_SPAN = math.log(1.25)
"""The ramp covers at least a factor of 1.25 each way, so that a flat map looks flat."""

LARGEST_SPAN = math.log(8)
"""And at most one of 8, so that a word whose guidance is switched off does not make all others white."""


def span_of(ratio: np.ndarray) -> float:
    """How far the ramp must reach, as the logarithm of a factor on γ each way."""
    logs = np.abs(np.log(np.clip(ratio, 1e-3, 1e3)))
    return min(max(float(logs.max(initial=0.0)), SMALLEST_SPAN), LARGEST_SPAN)


def heat(ratio: np.ndarray, span: float, height: int, width: int) -> Picture:
    """Ratios (h, w) as colours, by their logarithm: half and double are equally far from white."""
    return enlarge(diverging(np.log(np.clip(ratio, 1e-3, 1e3)) / span), height, width)


def colour_bar(height: int, scale: float, span: float, *, size: int = SIZE) -> Picture:
    """The ramp, with guidance scales written beside it: both ends, halfway, and γ itself."""
    places = (-1.0, -0.5, 0.0, 0.5, 1.0) if height >= 9 * height_of(size) else (-1.0, 0.0, 1.0)
    numbers = [f"{scale * math.exp(span * place):.2f}" for place in places]
    half = height_of(size) // 2
    bar = paper(height, BAR_WIDTH + 10 + max(width_of(number, size) for number in numbers))
    ramp = diverging(np.linspace(1, -1, height - 2 * half))[:, None].repeat(BAR_WIDTH - 2, axis=1)
    bar[half - 1 : height - half + 1, :BAR_WIDTH] = frame(ramp)
    for place, number in zip(places, numbers, strict=True):
        y = half + (1 - place) / 2 * (height - 2 * half - 1)
        bar[round(y), BAR_WIDTH : BAR_WIDTH + 5] = FAINT
        write(bar, BAR_WIDTH + 9, y, number, size=size, anchor="lm")
    return bar


def scale_map(evaluation: Evaluation, *, image: int = 0, longest: int = TILE, span: float | None = None) -> Picture:
    """γ·r at every place of one evaluation, with its colour bar; `span` = that of another map, to compare with."""
    ratio = evaluation.ratio[image].numpy()
    span = span_of(ratio) if span is None else span
    picture = frame(heat(ratio, span, *tile_size(evaluation, longest)))
    return margin(beside([picture, colour_bar(max(picture.shape[0], 120), evaluation.guidance_scale, span)]))
