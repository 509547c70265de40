"""What stands in place of a view where S-CFG was inactive: why, and what to do about it."""

from .canvas import Picture, below, frame, margin, paper
from .core import Run
from .text import FAINT, INK, Colour, height_of, wrap, write

WIDTH = 460
TITLE_SIZE, TEXT_SIZE = 30, 22
"""Larger than in a view: on its node the image is shrunk to a width of some 250 pixels."""

TITLE = "S-CFG inactive"


def inactive(run: Run) -> Picture:
    """The notes of a closed run without evaluations, each with its cause and remedy, in sentences."""
    blocks = [_block(TITLE, TITLE_SIZE, INK)]
    for note in run.notes:
        found = run.explained[note]
        blocks.append(_block(_sentence(note), TEXT_SIZE, INK))
        if found.can_be_remedied:
            blocks.append(_block(found.cause, TEXT_SIZE, FAINT))
            blocks.append(_block(f"What to do: {_lower(found.remedy)}", TEXT_SIZE, INK))
    return margin(frame(margin(below(blocks, gap=10), 16)))


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:] + "."


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


def _block(text: str, size: int, colour: Colour) -> Picture:
    """A paragraph, WIDTH pixels wide."""
    lines = wrap(text, WIDTH, size)
    line = height_of(size) + 3
    block = paper(line * len(lines), WIDTH)
    for index, words in enumerate(lines):
        write(block, 0, index * line, words, size=size, colour=colour)
    return block
