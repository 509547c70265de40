"""What a long comparison has finished so far, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
Key = tuple[str, float, int]


class Pictures:
    """Judged pictures by (arm, γ, prompt), in an append-only file of lines; the first says how they are made."""

    def __init__(self, path: Path, header: Record) -> None:
        """Open or begin the file. Raises `ValueError` where it was made in another way."""
        self.path, self.found = path, dict[Key, Record]()
        lines = _whole_lines(path)
        if not lines:
            self._append([{"made with": header}])
        elif json.loads(lines[0])["made with"] != header:
            now = json.dumps({"made with": header})
            raise ValueError(f"{path} says {lines[0]}, now it is {now}: give the same options, or another folder")
        for line in lines[1:]:
            self._remember(json.loads(line))

    def add(self, records: list[Record]) -> None:
        """Keep a batch; it is on the disk when this returns."""
        self._append(records)
        for record in records:
            self._remember(record)

    def missing(self, arm: str, scale: float, indices: Iterable[int]) -> list[int]:
        """Those of these prompts that the arm has not drawn yet."""
        return [index for index in indices if (arm, scale, index) not in self.found]

    def _remember(self, record: Record) -> None:
        self.found[record["arm"], record["scale"], record["index"]] = record

    def _append(self, records: list[Record]) -> None:
        with self.path.open("a") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())


def _whole_lines(path: Path) -> list[str]:
    """The file's lines; one that a kill has cut short is taken off the file."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    return whole.decode().splitlines()
