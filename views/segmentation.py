"""Which word owns which part of the picture: one evaluation, or a contact sheet of many, with their legend."""

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
    """A label map (h, w) in the owners' colours, white lines between them, laid over `base` where it is given."""
    coloured = enlarge(colours_of(owners)[labels.astype(np.int64) + 1], height, width)
    if base is not None:
        grey = fit(base, height, width).mean(axis=2, keepdims=True)
        coloured = (opacity * coloured + (1 - opacity) * grey).round().astype(np.uint8)
    coloured[_edges(enlarge(_numbered(labels, owners), height, width))] = _BORDER
    return coloured


def _numbered(labels: np.ndarray, owners: Sequence[Owner]) -> np.ndarray:
    """Owner's number at every place, so that the tokens of one word have no line between them."""
    numbers = np.full(labels.shape, -1)
    for number, owner in enumerate(owners):
        numbers[owner.mask(labels)] = number
    return numbers


def _edges(numbers: np.ndarray) -> np.ndarray:
    edges = np.zeros(numbers.shape, dtype=bool)
    edges[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    edges[1:] |= numbers[1:] != numbers[:-1]
    return edges


def tile_size(evaluation: Evaluation, longest: int) -> tuple[int, int]:
    """(height, width) of a picture of the evaluation's grid, `longest` pixels on its longer side."""
    grid = evaluation.grid
    scale = longest / max(grid.h, grid.w)
    return max(1, round(grid.h * scale)), max(1, round(grid.w * scale))


def base_of(evaluation: Evaluation, image: int) -> Picture | None:
    """The evaluation's own preview of the picture, (h, w, 3), where the host gave one."""
    return None if evaluation.preview is None else evaluation.preview[image].permute(1, 2, 0).numpy()


def segmentation(
    run: Run,
    *,
    index: int = -1,
    image: int = 0,
    base: Picture | None = None,
    longest: int = TILE,
) -> Picture:
    """One evaluation of a closed run beside its legend: words, areas, mean guidance scales."""
    owners, evaluation = owners_of(run), run.evaluations[index]
    picture = label_picture(evaluation.labels[image].numpy(), owners, *tile_size(evaluation, longest), base=base)
    return margin(beside([frame(picture), legend(shares_of([evaluation], owners, image))]))


def segmentation_sheet(
    run: Run,
    *,
    indices: Sequence[int] | None = None,
    image: int = 0,
    base: Picture | None = None,
    longest: int = SHEET_TILE,
    columns: int = SHEET_COLUMNS,
) -> Picture:
    """A contact sheet of evaluations (default: twelve over the run) beside a legend with their means.

    base  a picture that lies under every tile; None = each evaluation's own preview, where there is one.
    """
    owners = owners_of(run)
    chosen = spread_out(len(run.evaluations), 2 * columns) if indices is None else indices
    tiles: list[Picture] = []
    for index in chosen:
        evaluation = run.evaluations[index]
        under = base_of(evaluation, image) if base is None else base
        size = tile_size(evaluation, longest)
        tile = frame(label_picture(evaluation.labels[image].numpy(), owners, *size, base=under))
        tiles.append(titled(tile, f"step {run.step_of(evaluation) + 1}"))
    shares = shares_of([run.evaluations[index] for index in chosen], owners, image)
    return margin(beside([sheet(tiles, columns), legend(shares)], gap=24))


def spread_out(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place) for place in np.linspace(0, count - 1, most)]
