"""The messages in README, help pages and docs, made from `Note`: `python -m tests.packaging.messages`.

A table, or where a comment stands for its first heading, a list: help pages have no room for tables.
"""

import re
from pathlib import Path

from scfg_core import Note

PACK = Path(__file__).resolve().parents[2]

INACTIVE = (
    Note.CFG_ONE,
    Note.UNKNOWN_MODEL,
    Note.NOT_AN_IMAGE,
    Note.NO_CFG_FUNCTION,
    Note.UNKNOWN_PROMPTS,
    Note.TILED,
    Note.CONTEXT_WINDOWS,
    Note.AMBIGUOUS,
    Note.NO_MAPS,
    Note.NOTHING_SAMPLED,
)
LIMITED = (
    Note.LAYER_SKIPPED,
    Note.NO_FOREGROUND,
    Note.REUSED,
    Note.NOT_FINITE,
    Note.UNRECORDED,
    Note.UNCOMPILED,
    Note.UNKNOWN_WORD,
    Note.OUT_OF_MEMORY,
    Note.INTERNAL_ERROR,
)
SKIPPED = (Note.NO_GUIDANCE, Note.NOT_A_PAIR, Note.NO_TEXT, Note.OTHER_LENGTH)

TABLES = {"S-CFG inactive: …": INACTIVE, "S-CFG active: … (…)": LIMITED, "note in `run.notes`": SKIPPED}
"""The first heading of each table, and its messages."""

PAGES = {
    "README.md": ("S-CFG inactive: …", "S-CFG active: … (…)"),
    "web/docs/SCFGGuidance.md": ("S-CFG inactive: …", "S-CFG active: … (…)"),
    "docs/DIFFUSERS.md": ("note in `run.notes`",),
}


def shown(note: Note) -> str:
    """The text as a page writes it: … for what is filled in."""
    return re.sub(r"\{[^}]*\}", "…", note.text)


def table(heading: str) -> str:
    """A Markdown table of messages, causes and remedies."""
    rows = [[f"`{shown(note)}`", note.cause, note.remedy] for note in TABLES[heading]]
    head, *body = (f"| {' | '.join(row)} |\n" for row in [[heading, "why", "what to do"], *rows])
    return "".join([head, "|---|---|---|\n", *body])


def listing(heading: str) -> str:
    """The same as a Markdown list, below a comment."""
    items = [f"- `{shown(note)}`: {note.cause} → {note.remedy}\n" for note in TABLES[heading]]
    return "".join([f"<!-- {heading} -->\n", *items])


def with_tables(page: str, headings: tuple[str, ...]) -> str:
    """The page with its messages written anew. Raises `ValueError` where a table or list is not found."""
    for heading in headings:
        forms = {
            rf"^\| {re.escape(heading)} \|.*\n(?:\|.*\n)*": table(heading),
            rf"^<!-- {re.escape(heading)} -->\n(?:- .*\n)*": listing(heading),
        }
        found = [(pattern, text) for pattern, text in forms.items() for _ in re.findall(pattern, page, re.M)]
        if len(found) != 1:
            raise ValueError(f"expected one table or list of {heading!r}, got {len(found)}")
        ((pattern, text),) = found
        page = re.sub(pattern, lambda _, text=text: text, page, flags=re.M)
    return page


def main() -> None:
    for name, headings in PAGES.items():
        path = PACK / name
        path.write_text(with_tables(path.read_text(encoding="utf-8"), headings), encoding="utf-8")


if __name__ == "__main__":
    main()
