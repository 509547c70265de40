"""The messages in docs and help pages, made from `Note`: `python -m tests.packaging.messages`.

Help pages have lists: the host's panel is narrow, and a table would be cut off.
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
    Note.NOT_FOLLOWED,
    Note.NOT_EVERYWHERE,
    Note.FELL_BACK,
    Note.OWNS_NOTHING,
    Note.OUT_OF_MEMORY,
    Note.INTERNAL_ERROR,
)
SKIPPED = (Note.NO_GUIDANCE, Note.NO_NEGATIVE, Note.NOT_A_PAIR, Note.NO_TEXT, Note.OTHER_LENGTH)

TABLES = {"S-CFG inactive: …": INACTIVE, "S-CFG active: … (…)": LIMITED, "note in `run.notes`": SKIPPED}
"""The first heading of each table, and its messages."""

PAGES = {
    "docs/MESSAGES.md": ("S-CFG inactive: …", "S-CFG active: … (…)"),
    "docs/DIFFUSERS.md": ("note in `run.notes`",),
}


LISTS = {"INACTIVE": INACTIVE, "LIMITED": LIMITED}
"""Messages between `<!-- NAME -->` and `<!-- end -->`."""

HELP = "web/docs/SCFGGuidance.md"


def shown(note: Note) -> str:
    """The text as a page writes it: … for what is filled in."""
    return re.sub(r"\{[^}]*\}", "…", note.text)


def table(heading: str) -> str:
    """A Markdown table of messages, causes and remedies."""
    rows = [[f"`{shown(note)}`", note.cause, note.remedy] for note in TABLES[heading]]
    head, *body = (f"| {' | '.join(row)} |\n" for row in [[heading, "why", "what to do"], *rows])
    return "".join([head, "|---|---|---|\n", *body])


def with_tables(page: str, headings: tuple[str, ...]) -> str:
    """The page with its tables of messages written anew. Raises `ValueError` where one is not found."""
    for heading in headings:
        pattern = re.compile(rf"^\| {re.escape(heading)} \|.*\n(?:\|.*\n)*", re.M)
        page, count = pattern.subn(lambda _, heading=heading: table(heading), page)
        if count != 1:
            raise ValueError(f"expected one table headed {heading!r}, got {count}")
    return page


def with_lists(page: str) -> str:
    """The page with its lists of messages written anew. Raises `ValueError` where one is not found."""
    for name, notes in LISTS.items():
        items = "".join(f"- `{shown(note)}` — {note.cause} {note.remedy}\n" for note in notes)
        pattern = re.compile(rf"(?<=<!-- {name} -->\n\n).*?(?=\n<!-- end -->)", re.S)
        page, count = pattern.subn(lambda _, items=items: items, page)
        if count != 1:
            raise ValueError(f"expected one list between <!-- {name} --> and <!-- end -->, got {count}")
    return page


def main() -> None:
    path = PACK / HELP
    path.write_text(with_lists(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name, headings in PAGES.items():
        path = PACK / name
        path.write_text(with_tables(path.read_text(encoding="utf-8"), headings), encoding="utf-8")


if __name__ == "__main__":
    main()
