"""The legend of a segmentation: colour, word, area and mean guidance scale, one line each, on paper of its own."""

from collections.abc import Sequence

from .canvas import Picture, paper
from .owners import Share
from .palette import RULE
from .text import FAINT, SIZE, height_of, shorten, width_of, write

WIDEST_WORD = 150
MOST_ROWS = 14
_HEADS = ("area", "scale")
_SPACE = 14


def legend(shares: Sequence[Share], *, size: int = SIZE, most_rows: int = MOST_ROWS) -> Picture:
    """One line per owner; those beyond `most_rows` are summed up in a last one."""
    rows = [(share.owner.colour, share.owner.text, f"{share.area:.1%}", f"{share.scale:.2f}") for share in shares]
    if len(rows) > most_rows:
        rest = shares[most_rows - 1 :]
        area = sum(share.area for share in rest)
        mean = sum(share.area * share.scale for share in rest) / area
        rows[most_rows - 1 :] = [(RULE, f"{len(rest)} others", f"{area:.1%}", f"{mean:.2f}")]
    line = height_of(size) + 4
    swatch = line - 6
    words = [shorten(text, WIDEST_WORD, size) for _, text, *_ in rows]
    first = max([width_of(word, size) for word in words], default=0)
    numbers = [[area, scale] for *_, area, scale in rows]
    columns = [max(width_of(text, size) for text in column) for column in zip(_HEADS, *numbers, strict=True)]
    ends = [swatch + 8 + first + _SPACE + columns[0], swatch + 8 + first + 2 * _SPACE + sum(columns)]
    picture = paper(line * (len(rows) + 1), ends[1] + 1)
    for head, end in zip(_HEADS, ends, strict=True):
        write(picture, end, 0, head, size=size, colour=FAINT, anchor="ra")
    for index, ((colour, _, area, scale), word) in enumerate(zip(rows, words, strict=True), 1):
        top = index * line
        picture[top : top + swatch, :swatch] = RULE
        picture[top + 1 : top + swatch - 1, 1 : swatch - 1] = colour
        write(picture, swatch + 8, top, word, size=size)
        write(picture, ends[0], top, area, size=size, anchor="ra")
        write(picture, ends[1], top, scale, size=size, anchor="ra")
    return picture
