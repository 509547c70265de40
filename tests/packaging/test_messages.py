"""Every message of a run is explained where users look, in its own words."""

import pytest

from scfg_core import Note

from .messages import HELP, PAGES, TABLES, with_lists, with_tables
from .pack import PACK


def test_every_message_is_in_one_table():
    listed = [note for notes in TABLES.values() for note in notes]
    assert sorted(listed, key=lambda note: note.name) == sorted(Note, key=lambda note: note.name)


@pytest.mark.parametrize("name", PAGES)
def test_the_tables_of_a_page_are_those_of_the_messages(name):
    page = (PACK / name).read_text(encoding="utf-8")
    assert with_tables(page, PAGES[name]) == page, "run python -m tests.packaging.messages"


def test_the_lists_of_the_help_page_are_those_of_the_messages():
    page = (PACK / HELP).read_text(encoding="utf-8")
    assert with_lists(page) == page, "run python -m tests.packaging.messages"


@pytest.mark.parametrize("note", Note, ids=lambda note: note.name)
def test_a_message_has_a_cause_and_a_remedy_in_sentences(note):
    assert note.text and not note.text.endswith(".")
    assert note.cause.endswith(".") and note.remedy.endswith(".")
    assert "|" not in note.text + note.cause + note.remedy
