"""Which word owns which part of the image: one evaluation, or a contact sheet of several, with a legend."""

from collections.abc import Sequence

import numpy as np

from .canvas import Picture, beside, enlarge, fit, frame, margin, sheet, titled
from .core import Evaluation, Run
from .legend import legend
from .owners import Owner, colours_of, owners_of, shares_of

TILE = 256
SHEET_TILE = 144
SHEET_COLUMNS = 6
OPACITY = 0.65
_BORDER = (255, 255, 255)


def label_picture(
    labels: np.ndarray,
    owners: Sequence[Owner],
    height: int,
    width: int,
    *,
    base: Picture | None = None,
    opacity: float = OPACITY,
) -> Picture:
    """A label map (h, w) in the owners' colours with white borders, blended over `base` if given."""
    coloured = enlarge(colours_of(owners)[labels.astype(np.int64) + 1], height, width)
    if base is not None:
        grey = fit(base, height, width).mean(axis=2, keepdims=True)
        coloured = (opacity * coloured + (1 - opacity) * grey).round().astype(np.uint8)
    coloured[_edges(enlarge(_owner_indices(labels, owners), height, width))] = _BORDER
    return coloured


def _owner_indices(labels: np.ndarray, owners: Sequence[Owner]) -> np.ndarray:
    """Index of the owner of every patch: the tokens of one word share it, so no border is drawn between them."""
    indices = np.full(labels.shape, -1)
    for index, owner in enumerate(owners):
        indices[owner.mask(labels)] = index
    return indices


def _edges(indices: np.ndarray) -> np.ndarray:
    edges = np.zeros(indices.shape, dtype=bool)
    edges[:, 1:] |= indices[:, 1:] != indices[:, :-1]
    edges[1:] |= indices[1:] != indices[:-1]
    return edges


def tile_size(evaluation: Evaluation, longest: int) -> tuple[int, int]:
    """(height, width) of an image of the evaluation's grid, `longest` pixels on its longer side."""
    grid = evaluation.grid
    scale = longest / max(grid.h, grid.w)
    return max(1, round(grid.h * scale)), max(1, round(grid.w * scale))


def base_of(evaluation: Evaluation, image: int) -> Picture | None:
    """The preview of an evaluation (h, w, 3), or None if the host gave none."""
    return None if evaluation.preview is None else evaluation.preview[image].permute(1, 2, 0).numpy()


def segmentation(
    run: Run,
    *,
    index: int = -1,
    image: int = 0,
    base: Picture | None = None,
    longest: int = TILE,
) -> Picture:
    """One evaluation of a closed run and its legend: words, areas, mean guidance scales."""
    owners, evaluation = owners_of(run), run.evaluations[index]
    label_map = label_picture(evaluation.labels[image].numpy(), owners, *tile_size(evaluation, longest), base=base)
    return margin(beside([frame(label_map), legend(shares_of([evaluation], owners, image))]))


def segmentation_sheet(
    run: Run,
    *,
    indices: Sequence[int] | None = None,
    image: int = 0,
    base: Picture | None = None,
    longest: int = SHEET_TILE,
    columns: int = SHEET_COLUMNS,
) -> Picture:
    """A contact sheet of evaluations (default: twelve over the run) and a legend with their means.

    base  an image behind every tile; None = the preview of the evaluation, if it has one.
    """
    owners = owners_of(run)
    chosen = spread_out(len(run.evaluations), 2 * columns) if indices is None else indices
    tiles: list[Picture] = []
    for index in chosen:
        evaluation = run.evaluations[index]
        background = base_of(evaluation, image) if base is None else base
        size = tile_size(evaluation, longest)
        tile = frame(label_picture(evaluation.labels[image].numpy(), owners, *size, base=background))
        tiles.append(titled(tile, f"step {run.step_of(evaluation) + 1}"))
    shares = shares_of([run.evaluations[index] for index in chosen], owners, image)
    return margin(beside([sheet(tiles, columns), legend(shares)], gap=24))


def spread_out(count: int, max_count: int) -> list[int]:
    """At most `max_count` evenly spaced indices below `count`, including the first and the last."""
    if count <= max_count:
        return list(range(count))
    return [round(index) for index in np.linspace(0, count - 1, max_count)]
