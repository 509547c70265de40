"""Pictures as arrays: RGB uint8 (H, W, 3) on white paper, enlarged, framed, titled and put side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .palette import PAPER, RULE
from .text import INK, SIZE, Colour, height_of, shorten, write

Picture = np.ndarray

GAP = 12


def paper(height: int, width: int) -> Picture:
    """A white picture."""
    return np.full((height, width, 3), PAPER, dtype=np.uint8)


def enlarge(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w, …) → (height, width, …) by the nearest cell: row i takes ⌊i·h/height⌋. Nothing is invented."""
    rows = np.arange(height) * cells.shape[0] // height
    columns = np.arange(width) * cells.shape[1] // width
    return cells[rows[:, None], columns[None, :]]


def fit(image: Picture, height: int, width: int) -> Picture:
    """A photograph at another size: whole pixels where it grows a lot, smooth otherwise."""
    if image.shape[:2] == (height, width):
        return image
    small = height >= 3 * image.shape[0] and width >= 3 * image.shape[1]
    way = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), way))


def frame(picture: Picture, colour: Colour = RULE) -> Picture:
    """The picture with a line of one pixel around it."""
    framed = np.empty((picture.shape[0] + 2, picture.shape[1] + 2, 3), dtype=np.uint8)
    framed[...] = colour
    framed[1:-1, 1:-1] = picture
    return framed


def titled(picture: Picture, title: str, *, size: int = SIZE, colour: Colour = INK) -> Picture:
    """A line of text over the picture, cut to its width."""
    head = paper(height_of(size) + 4, picture.shape[1])
    write(head, 0, 0, shorten(title, picture.shape[1], size), size=size, colour=colour)
    return np.concatenate([head, picture])


def padded(picture: Picture, height: int, width: int) -> Picture:
    """The picture at the top left of white paper of at least this size."""
    sheet = paper(max(height, picture.shape[0]), max(width, picture.shape[1]))
    sheet[: picture.shape[0], : picture.shape[1]] = picture
    return sheet


def margin(picture: Picture, width: int = GAP) -> Picture:
    """The picture with white paper all around."""
    return np.pad(picture, ((width, width), (width, width), (0, 0)), constant_values=255)


def beside(pictures: Sequence[Picture], gap: int = GAP) -> Picture:
    """From left to right, aligned at the top."""
    height = max(picture.shape[0] for picture in pictures)
    parts: list[Picture] = []
    for index, picture in enumerate(pictures):
        parts += [paper(height, gap)] * (index > 0) + [padded(picture, height, 0)]
    return np.concatenate(parts, axis=1)


def below(pictures: Sequence[Picture], gap: int = GAP) -> Picture:
    """From top to bottom, aligned at the left."""
    width = max(picture.shape[1] for picture in pictures)
    parts: list[Picture] = []
    for index, picture in enumerate(pictures):
        parts += [paper(gap, width)] * (index > 0) + [padded(picture, 0, width)]
    return np.concatenate(parts)


def sheet(pictures: Sequence[Picture], columns: int, gap: int = GAP) -> Picture:
    """Row by row, `columns` in each."""
    rows = [beside(pictures[first : first + columns], gap) for first in range(0, len(pictures), columns)]
    return below(rows, gap)
