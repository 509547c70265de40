"""The legend of a segmentation: one line per word with its colour, area and mean guidance scale."""

from collections.abc import Sequence

from .canvas import Picture, paper
from .owners import Share
from .palette import RULE
from .text import FAINT, INK, SIZE, height_of, shorten, width_of, write

MAX_WORD_WIDTH = 150
MAX_ROWS = 14
_SPACE = 14


def legend(shares: Sequence[Share], *, size: int = SIZE, most_rows: int = MAX_ROWS, scales: bool = True) -> Picture:
    """One line per owner; those beyond `most_rows` are combined in the last one. `scales`: show their mean γ·r."""
    rows = [(share.owner.colour, share.owner.text, share.area, share.scale) for share in shares]
    if len(rows) > most_rows:
        rest = shares[most_rows - 1 :]
        area = sum(share.area for share in rest)
        rows[most_rows - 1 :] = [(RULE, f"{len(rest)} others", area, _mean_scale(rest, area))]
    columns = [["area", *[f"{area:.1%}" for *_, area, _ in rows]]]
    if scales:
        columns.append(["scale", *[f"{scale:.2f}" for *_, scale in rows]])
    line = height_of(size) + 4
    swatch = line - 6
    words = [shorten(text, MAX_WORD_WIDTH, size) for _, text, *_ in rows]
    end = swatch + 8 + max([width_of(word, size) for word in words], default=0)
    ends: list[int] = []
    for column in columns:
        end += _SPACE + max(width_of(text, size) for text in column)
        ends.append(end)
    image = paper(line * (len(rows) + 1), end + 1)
    for index, ((colour, *_), word) in enumerate(zip(rows, words, strict=True), 1):
        top = index * line
        image[top : top + swatch, :swatch] = RULE
        image[top + 1 : top + swatch - 1, 1 : swatch - 1] = colour
        write(image, swatch + 8, top, word, size=size)
    for column, right in zip(columns, ends, strict=True):
        for index, text in enumerate(column):
            write(image, right, index * line, text, size=size, colour=INK if index else FAINT, anchor="ra")
    return image


def _mean_scale(shares: Sequence[Share], area: float) -> float:
    return sum(share.area * share.scale for share in shares) / area
