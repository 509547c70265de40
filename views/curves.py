"""The paper's Figure 1: how strongly each region is guided over the steps, before and after rescaling.

The regions are those of the last evaluation, fixed over the steps; norms are means over a region, in ε units.
"""

import math
from dataclasses import dataclass

import numpy as np

from .canvas import Picture, below, beside, margin, paper, titled
from .chart import Line, chart, top_of
from .core import Run, nearest
from .legend import legend
from .owners import Owner, owners_of, shares_of
from .text import FAINT, write

SMALLEST_AREA = 0.01
"""Regions below this part of the picture have no curve: their means are noise."""


@dataclass(frozen=True)
class RegionNorms:
    """Mean norms (evaluations, regions) of one picture, and the (regions,) part of the picture that each has."""

    owners: list[Owner]
    areas: np.ndarray
    classifier: np.ndarray
    rescaled: np.ndarray
    diffusion: np.ndarray


def region_norms(run: Run, image: int = 0, smallest_area: float = SMALLEST_AREA) -> RegionNorms:
    """Norms of a closed run's regions over its evaluations, the regions fixed as the last evaluation has them."""
    shares = [
        share for share in shares_of(run.evaluations[-1:], owners_of(run), image) if share.area >= smallest_area
    ]
    last = run.evaluations[-1].labels[image]
    masks = {
        grid: [share.owner.mask(nearest(last, grid).numpy()) for share in shares]
        for grid in {each.grid for each in run.evaluations}
    }

    def means(name: str) -> np.ndarray:
        maps = [(masks[each.grid], getattr(each, name)[image].numpy()) for each in run.evaluations]
        return np.array([[_mean(values[mask]) for mask in own] for own, values in maps])

    return RegionNorms(
        [share.owner for share in shares],
        np.array([share.area for share in shares]),
        means("classifier"),
        means("rescaled"),
        means("diffusion"),
    )


def _mean(values: np.ndarray) -> float:
    """NaN for a region that a coarser grid has no place of."""
    return float(values.mean()) if values.size else math.nan


def spread(norms: np.ndarray, areas: np.ndarray) -> float:
    """How unequal the regions are: their standard deviation over their mean, by area, mean over evaluations.

    Evaluations with a norm that is not finite are left out; NaN where none is left.
    """
    norms = norms[np.isfinite(norms).all(axis=1)]
    if len(norms) == 0:
        return math.nan
    weights = areas / areas.sum()
    mean = norms @ weights
    deviation = np.sqrt(((norms - mean[:, None]) ** 2) @ weights)
    return float((deviation / np.maximum(mean, 1e-12)).mean())


def curves(run: Run, *, image: int = 0, height: int = 230, width: int = 270, caption: str = "") -> Picture:
    """Three charts and their legend: ‖ε_c − ε_u‖ before and after rescaling, on one scale, and ‖ε_u‖.

    caption: one line under them.
    """
    norms = region_norms(run, image)
    steps = np.array([run.step_of(each) + 1 for each in run.evaluations], dtype=np.float64)

    def lines(values: np.ndarray) -> list[Line]:
        return [Line(values[:, index], owner.colour) for index, owner in enumerate(norms.owners)]

    before, after, diffusion = lines(norms.classifier), lines(norms.rescaled), lines(norms.diffusion)
    shared = top_of(before, after)
    spreads = [_told(spread(values, norms.areas)) for values in (norms.classifier, norms.rescaled)]
    parts = [
        ("classifier score, before", before, shared, spreads[0]),
        ("classifier score, after", after, shared, spreads[1]),
        ("diffusion score", diffusion, top_of(diffusion), ""),
    ]
    charts = [
        _noted(chart(steps, drawn, title=title, x_label="step", top=top, height=height, width=width), note)
        for title, drawn, top, note in parts
    ]
    shares = shares_of(run.evaluations[-1:], norms.owners, image)
    drawn = beside([*charts, below([paper(20, 1), legend(shares)], gap=0)], gap=20)
    return margin(below([drawn, titled(paper(0, drawn.shape[1]), caption)]) if caption else drawn)


def _told(unequal: float) -> str:
    return "" if math.isnan(unequal) else f"spread {unequal:.2f}"


def _noted(picture: Picture, note: str) -> Picture:
    """A short note at the right end of the chart's title line."""
    if note:
        write(picture, picture.shape[1] - 12, 0, note, colour=FAINT, anchor="ra")
    return picture
