"""A benchmark's rows: a table on the screen, JSON on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def show(title: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Print `columns` (key → heading) of the rows."""
    lines = [list(columns.values())] + [[_text(row.get(key)) for key in columns] for row in rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def save(path: Path, name: str, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], **more: Any) -> None:
    """Write {benchmark, machine, rows, …}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"benchmark": name, "machine": dict(machine), **more, "rows": [dict(row) for row in rows]}
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


def mib(size: float) -> str:
    return f"{size / 2**20:.1f} MiB"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
