"""Text in images, in Pillow's own font, or in a system font for characters that it lacks."""

from functools import cache
from typing import cast

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
_NONCHARACTER = "\uffff"


@cache
def _font(name: str | None, size: int) -> Font | None:
    try:
        return cast(Font, ImageFont.load_default(size)) if name is None else ImageFont.truetype(name, size)
    except OSError:
        return None


def _glyph(font: Font, character: str) -> bytes:
    canvas = Image.new("L", (2 * SIZE, 2 * SIZE))
    ImageDraw.Draw(canvas).text((0, 0), character, font=font, fill=255)
    return canvas.tobytes()


@cache
def _supports(name: str | None, character: str) -> bool:
    font = _font(name, SIZE)
    if font is None:
        return False
    return character.isspace() or _glyph(font, character) != _glyph(font, _NONCHARACTER)


def font_for(text: str, size: int = SIZE) -> Font:
    """Pillow's own font, or the first system font that has every character of `text`."""
    names = [None, *_FALLBACKS]
    fitting = (name for name in names if all(_supports(name, character) for character in set(text)))
    return cast(Font, _font(next(fitting, None), size))  # Pillow's own is always there


def one_line(text: str) -> str:
    """The text with spaces for line breaks and unprintable characters."""
    return "".join(character if character.isprintable() else " " for character in text)


def width_of(text: str, size: int = SIZE) -> int:
    """Width of a line of text in pixels."""
    return int(np.ceil(font_for(text, size).getlength(text)))


def height_of(size: int = SIZE) -> int:
    """Height of a line of text in pixels, the same for all texts."""
    ascent, descent = font_for("", size).getmetrics()
    return ascent + descent


def shorten(text: str, width: int, size: int = SIZE) -> str:
    """One line of at most `width` pixels; a cut is marked by three dots."""
    text = one_line(text)
    if width_of(text, size) <= width:
        return text
    while text and width_of(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def wrap(text: str, width: int, size: int = SIZE) -> list[str]:
    """Lines of at most `width` pixels, broken between words; a word that is wider is shortened."""
    lines: list[str] = []
    for word in one_line(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(shorten(word, width, size))
    return lines


def write(
    image: np.ndarray,
    x: float,
    y: float,
    text: str,
    *,
    size: int = SIZE,
    colour: Colour = INK,
    anchor: str = "la",
) -> None:
    """Write a line of text into an RGB image (H, W, 3) in place; `anchor` as in Pillow, "la" = left, top."""
    canvas = Image.fromarray(image)
    ImageDraw.Draw(canvas).text((x, y), one_line(text), font=font_for(text, size), fill=colour, anchor=anchor)
    image[...] = np.asarray(canvas)
