"""Words in pictures, in the font that ships with Pillow; words it has no letters for, in one of the system's."""

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont
Colour = tuple[int, int, int]

SIZE = 15
INK: Colour = (34, 34, 34)
FAINT: Colour = (110, 110, 110)

_FALLBACKS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "msyh.ttc",
    "segoeui.ttf",
)
_NEVER_A_LETTER = "\uffff"


@cache
def _font(name: str | None, size: int) -> Font | None:
    if name is None:
        font = ImageFont.load_default(size)
        assert isinstance(font, Font)
        return font
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _shape(font: Font, letter: str) -> bytes:
    canvas = Image.new("L", (2 * SIZE, 2 * SIZE))
    ImageDraw.Draw(canvas).text((0, 0), letter, font=font, fill=255)
    return canvas.tobytes()


@cache
def _has(name: str | None, letter: str) -> bool:
    font = _font(name, SIZE)
    return font is not None and (letter.isspace() or _shape(font, letter) != _shape(font, _NEVER_A_LETTER))


def font_for(text: str, size: int = SIZE) -> Font:
    """Pillow's own font, or the first font of the system that has every letter of `text`."""
    names = [None, *_FALLBACKS]
    name = next((name for name in names if all(_has(name, letter) for letter in set(text))), None)
    font = _font(name, size)
    assert font is not None
    return font


def one_line(text: str) -> str:
    """Text as it is shown: whatever breaks a line or cannot be printed is a space; nothing in it is markup."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def width_of(text: str, size: int = SIZE) -> int:
    """Width of a line of text in pixels."""
    return int(np.ceil(font_for(text, size).getlength(text)))


def height_of(size: int = SIZE) -> int:
    """Height of a line of text in pixels, the same for every text."""
    ascent, descent = font_for("", size).getmetrics()
    return ascent + descent


def shorten(text: str, width: int, size: int = SIZE) -> str:
    """One line of at most `width` pixels; what had to go is three dots."""
    text = one_line(text)
    if width_of(text, size) <= width:
        return text
    while text and width_of(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def write(
    picture: np.ndarray,
    x: float,
    y: float,
    text: str,
    *,
    size: int = SIZE,
    colour: Colour = INK,
    anchor: str = "la",
) -> None:
    """Write a line into an RGB picture (H, W, 3) in place; `anchor` as Pillow has it, "la" = left, top."""
    canvas = Image.fromarray(picture)
    ImageDraw.Draw(canvas).text((x, y), one_line(text), font=font_for(text, size), fill=colour, anchor=anchor)
    picture[...] = np.asarray(canvas)
