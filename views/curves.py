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

MIN_AREA = 0.01
"""Regions smaller than this part of the image have no curve: their means are noise."""


@dataclass(frozen=True)
class RegionNorms:
    """Mean norms (evaluations, regions) of one image, and the part of its area (regions,) of each region."""

    owners: list[Owner]
    areas: np.ndarray
    classifier: np.ndarray
    rescaled: np.ndarray
    diffusion: np.ndarray


def region_norms(run: Run, image: int = 0, smallest_area: float = MIN_AREA) -> RegionNorms:
    """Norms of a closed run over its evaluations, in the regions of the last evaluation."""
    shares = [
        share for share in shares_of(run.evaluations[-1:], owners_of(run), image) if share.area >= smallest_area
    ]
    last = run.evaluations[-1].labels[image]
    masks = {
        grid: [share.owner.mask(nearest(last, grid).numpy()) for share in shares]
        for grid in {evaluation.grid for evaluation in run.evaluations}
    }

    def means(name: str) -> np.ndarray:
        norms = [
            (masks[evaluation.grid], getattr(evaluation, name)[image].numpy()) for evaluation in run.evaluations
        ]
        return np.array([[_mean(values[mask]) for mask in region_masks] for region_masks, values in norms])

    return RegionNorms(
        [share.owner for share in shares],
        np.array([share.area for share in shares]),
        means("classifier"),
        means("rescaled"),
        means("diffusion"),
    )


def _mean(values: np.ndarray) -> float:
    """The mean; NaN for a region that vanishes on a coarser grid."""
    return float(values.mean()) if values.size else math.nan


def spread(norms: np.ndarray, areas: np.ndarray) -> float:
    """How unequal the regions are: standard deviation over mean, weighted by area, averaged over evaluations.

    Evaluations with a norm that is not finite are skipped; NaN if none is left.
    """
    norms = norms[np.isfinite(norms).all(axis=1)]
    if len(norms) == 0:
        return math.nan
    weights = areas / areas.sum()
    mean = norms @ weights
    deviation = np.sqrt(((norms - mean[:, None]) ** 2) @ weights)
    return float((deviation / np.maximum(mean, 1e-12)).mean())


def curves(run: Run, *, image: int = 0, height: int = 230, width: int = 270, caption: str = "") -> Picture:
    """Three charts and their legend: ‖ε_c − ε_u‖ before and after rescaling, on the same axis, and ‖ε_u‖.

    caption  a line of text below them.
    """
    norms = region_norms(run, image)
    steps = np.array([run.step_of(evaluation) + 1 for evaluation in run.evaluations], dtype=np.float64)

    def lines(values: np.ndarray) -> list[Line]:
        return [Line(values[:, index], owner.colour) for index, owner in enumerate(norms.owners)]

    before, after, diffusion = lines(norms.classifier), lines(norms.rescaled), lines(norms.diffusion)
    shared = top_of(before, after)
    spreads = [format_spread(spread(values, norms.areas)) for values in (norms.classifier, norms.rescaled)]
    panels = [
        ("classifier score, before", before, shared, spreads[0]),
        ("classifier score, after", after, shared, spreads[1]),
        ("diffusion score", diffusion, top_of(diffusion), ""),
    ]
    charts = [
        _with_note(chart(steps, curves, title=title, x_label="step", top=top, height=height, width=width), note)
        for title, curves, top, note in panels
    ]
    shares = shares_of(run.evaluations[-1:], norms.owners, image)
    drawn = beside([*charts, below([paper(20, 1), legend(shares)], gap=0)], gap=20)
    return margin(below([drawn, titled(paper(0, drawn.shape[1]), caption)]) if caption else drawn)


def format_spread(value: float) -> str:
    return "" if math.isnan(value) else f"spread {value:.2f}"


def _with_note(image: Picture, note: str) -> Picture:
    """The chart with a short note at the right end of its title line."""
    if note:
        write(image, image.shape[1] - 12, 0, note, colour=FAINT, anchor="ra")
    return image
