"""In place of a view of an inactive run: the reason, and what to do, in letters that can be read on a node."""

import sys

import numpy as np
import pytest

import views
from scfg_core import Note
from scfg_core.run.record import Run
from views.text import width_of, wrap

WHOLE_RUN = [Note.CFG_ONE, Note.UNKNOWN_MODEL, Note.NO_CFG_FUNCTION, Note.TILED, Note.NO_MAPS, Note.INTERNAL_ERROR]


def run_with(*notes: Note) -> Run:
    run = Run()
    for note in notes:
        run.note(note, error=ValueError("a test"))
    run.close()
    return run


@pytest.fixture
def written(monkeypatch):
    """What is written, line by line, with its place and width."""
    lines = []
    module = sys.modules["views.inactive"]
    real = module.write

    def write(image, x, y, text, *, size, colour):
        lines.append((text, x + width_of(text, size), image.shape[1]))
        real(image, x, y, text, size=size, colour=colour)

    monkeypatch.setattr(module, "write", write)
    return lines


def said(written) -> str:
    return " ".join(text for text, *_ in written)


@pytest.mark.parametrize("note", WHOLE_RUN, ids=lambda note: note.name)
def test_it_says_why_and_what_to_do(written, note):
    picture = views.inactive(run_with(note))
    assert picture.dtype == np.uint8 and picture.ndim == 3
    text = said(written).casefold()
    for part in ("s-cfg inactive", note.text.partition(":")[0], note.cause, f"what to do: {note.remedy}"):
        assert part.casefold() in text


def test_no_line_leaves_the_image_and_none_is_lost(written):
    picture = views.inactive(run_with(*WHOLE_RUN))
    assert all(end <= width for _, end, width in written)
    assert picture.shape[1] < 600 and len(written) > 15
    assert "..." not in said(written)


def test_a_note_that_asks_for_nothing_gives_no_advice(written):
    views.inactive(run_with(Note.NO_MAPS, Note.LAYER_SKIPPED))
    assert "skipped a layer" in said(written).casefold()
    assert "nothing to do" not in said(written).casefold()


def test_a_run_without_any_note_says_that_nothing_was_sampled(written):
    run = run_with()
    assert run.notes == [Note.NOTHING_SAMPLED.text]
    views.inactive(run)
    assert "at least one step" in said(written)


def test_wrapped_text_keeps_every_word_within_the_width():
    text = "one two three four five six seven"
    lines = wrap(text, 90, 15)
    assert len(lines) > 2 and " ".join(lines) == text
    assert all(width_of(line, 15) <= 90 for line in lines)
    assert wrap("", 90, 15) == []
    (cut,) = wrap("W" * 100, 90, 15)
    assert cut.endswith("...") and width_of(cut, 15) <= 90
