"""How strongly every patch is guided: γ·r as a heat map, white at the γ of plain CFG."""

import math

import numpy as np

from .canvas import Picture, beside, enlarge, frame, margin, paper
from .core import Evaluation
from .palette import diverging
from .segmentation import TILE, tile_size
from .text import FAINT, SIZE, height_of, width_of, write

BAR_WIDTH = 16
MIN_SPAN = math.log(1.25)
"""The ramp covers at least a factor of 1.25 in both directions, so that a flat map looks flat."""

MAX_SPAN = math.log(8)
"""And at most a factor of 8, so that a word without guidance does not make all others white."""


def span_of(ratio: np.ndarray) -> float:
    """The range of the ramp in both directions, as the logarithm of a factor on γ."""
    logs = np.abs(np.log(np.clip(ratio, 1e-3, 1e3)))
    return min(max(float(logs.max(initial=0.0)), MIN_SPAN), MAX_SPAN)


def heat(ratio: np.ndarray, span: float, height: int, width: int) -> Picture:
    """Ratios (h, w) as colours on a logarithmic scale: half and double are equally far from white."""
    return enlarge(diverging(np.log(np.clip(ratio, 1e-3, 1e3)) / span), height, width)


def colour_bar(height: int, scale: float, span: float, *, size: int = SIZE) -> Picture:
    """The ramp, labelled with guidance scales at its ends, halfway, and at γ."""
    positions = (-1.0, -0.5, 0.0, 0.5, 1.0) if height >= 9 * height_of(size) else (-1.0, 0.0, 1.0)
    labels = [f"{scale * math.exp(span * position):.2f}" for position in positions]
    half = height_of(size) // 2
    bar = paper(height, BAR_WIDTH + 10 + max(width_of(label, size) for label in labels))
    ramp = diverging(np.linspace(1, -1, height - 2 * half))[:, None].repeat(BAR_WIDTH - 2, axis=1)
    bar[half - 1 : height - half + 1, :BAR_WIDTH] = frame(ramp)
    for position, label in zip(positions, labels, strict=True):
        y = half + (1 - position) / 2 * (height - 2 * half - 1)
        bar[round(y), BAR_WIDTH : BAR_WIDTH + 5] = FAINT
        write(bar, BAR_WIDTH + 9, y, label, size=size, anchor="lm")
    return bar


def scale_map(evaluation: Evaluation, *, image: int = 0, longest: int = TILE, span: float | None = None) -> Picture:
    """γ·r in every patch of one evaluation, with its colour bar; pass the `span` of another map to compare."""
    ratio = evaluation.ratio[image].numpy()
    span = span_of(ratio) if span is None else span
    heat_map = frame(heat(ratio, span, *tile_size(evaluation, longest)))
    return margin(beside([heat_map, colour_bar(max(heat_map.shape[0], 120), evaluation.guidance_scale, span)]))
