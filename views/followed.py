"""Where masks that follow words lie: the image, darkened outside them, at one evaluation or at several."""

from collections.abc import Sequence

import numpy as np

from .canvas import Picture, below, enlarge, fit, frame, margin, paper, sheet, titled
from .core import Run
from .segmentation import SHEET_COLUMNS, SHEET_TILE, TILE, base_of, spread_out, tile_size

DARKEST = 0.25
"""What is left of the image's brightness where the mask is 0."""


def mask_picture(mask: np.ndarray, height: int, width: int, base: Picture | None = None) -> Picture:
    """A mask (h, w) in 0…1: light where it is 1; over `base` if given, else over grey."""
    image = paper(height, width) * 0.85 if base is None else fit(base, height, width).astype(np.float64)
    light = DARKEST + (1 - DARKEST) * enlarge(mask.clip(0, 1), height, width)
    return (image * light[..., None]).round().astype(np.uint8)


def followed(
    run: Run, *, indices: Sequence[int] | None = None, image: int = 0, base: Picture | None = None
) -> Picture:
    """A row for every followed mask of a closed run, each with its words and its share of the image.

    indices  of the evaluations; None = twelve over the run. base: behind every tile; None = their previews.
    """
    chosen = spread_out(len(run.evaluations), 2 * SHEET_COLUMNS) if indices is None else indices
    rows = []
    for place, words in enumerate(run.followed):
        tiles = []
        for index in chosen:
            evaluation = run.evaluations[index]
            if evaluation.followed is None:
                continue
            mask = evaluation.followed[place, image].float().numpy()
            size = tile_size(evaluation, TILE if len(chosen) == 1 else SHEET_TILE)
            background = base_of(evaluation, image) if base is None else base
            tile = frame(mask_picture(mask, *size, base=background))
            step = f"step {run.step_of(evaluation) + 1}, " if len(chosen) > 1 else ""
            tiles.append(titled(tile, f"{step}{mask.mean():.1%}"))
        rows.append(titled(sheet(tiles, SHEET_COLUMNS), words))
    return margin(below(rows))
