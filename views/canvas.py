"""Images as RGB uint8 arrays (H, W, 3) on white: enlarged, framed, titled and placed side by side."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .palette import PAPER, RULE
from .text import INK, SIZE, Colour, height_of, shorten, write

Picture = np.ndarray

GAP = 12


def paper(height: int, width: int) -> Picture:
    """A white image."""
    return np.full((height, width, 3), PAPER, dtype=np.uint8)


def enlarge(cells: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w, …) → (height, width, …) by the nearest cell: row i takes ⌊i·h/height⌋."""
    rows = np.arange(height) * cells.shape[0] // height
    columns = np.arange(width) * cells.shape[1] // width
    return cells[rows[:, None], columns[None, :]]


def fit(image: Picture, height: int, width: int) -> Picture:
    """An image at another size: sharp pixels from 3× upwards, smooth otherwise."""
    if image.shape[:2] == (height, width):
        return image
    sharp = height >= 3 * image.shape[0] and width >= 3 * image.shape[1]
    resampling = Image.Resampling.NEAREST if sharp else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), resampling))


def frame(image: Picture, colour: Colour = RULE) -> Picture:
    """The image with a border of one pixel."""
    framed = np.empty((image.shape[0] + 2, image.shape[1] + 2, 3), dtype=np.uint8)
    framed[...] = colour
    framed[1:-1, 1:-1] = image
    return framed


def titled(image: Picture, title: str, *, size: int = SIZE, colour: Colour = INK) -> Picture:
    """The image below a line of text, shortened to its width."""
    head = paper(height_of(size) + 4, image.shape[1])
    write(head, 0, 0, shorten(title, image.shape[1], size), size=size, colour=colour)
    return np.concatenate([head, image])


def padded(image: Picture, height: int, width: int) -> Picture:
    """The image at the top left of a white one of at least this size."""
    sheet = paper(max(height, image.shape[0]), max(width, image.shape[1]))
    sheet[: image.shape[0], : image.shape[1]] = image
    return sheet


def margin(image: Picture, width: int = GAP) -> Picture:
    """The image with a white margin."""
    return np.pad(image, ((width, width), (width, width), (0, 0)), constant_values=255)


def beside(images: Sequence[Picture], gap: int = GAP) -> Picture:
    """From left to right, aligned at the top."""
    height = max(image.shape[0] for image in images)
    parts: list[Picture] = []
    for index, image in enumerate(images):
        parts += [paper(height, gap)] * (index > 0) + [padded(image, height, 0)]
    return np.concatenate(parts, axis=1)


def below(images: Sequence[Picture], gap: int = GAP) -> Picture:
    """From top to bottom, aligned at the left."""
    width = max(image.shape[1] for image in images)
    parts: list[Picture] = []
    for index, image in enumerate(images):
        parts += [paper(gap, width)] * (index > 0) + [padded(image, 0, width)]
    return np.concatenate(parts)


def sheet(images: Sequence[Picture], columns: int, gap: int = GAP) -> Picture:
    """A grid, row by row, with `columns` images per row."""
    rows = [beside(images[first : first + columns], gap) for first in range(0, len(images), columns)]
    return below(rows, gap)
