"""What an experiment has finished so far, on disk and safe against a kill at any moment.

    OUT/plan.json                          how the images are made; another plan is refused
    OUT/captions.json                      the prompts by index
    OUT/records/00000.jsonl                lines about images, one file per process
    OUT/images/ARM/γ/000000.png

An image counts once its line is whole, and its line is written after the image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scfg_core import ScfgError

Record = dict[str, Any]
Key = tuple[str, float, int]
Pixels = np.ndarray


class Store:
    """Images and their records by (arm, γ, index); every process of an experiment has one, with its own file."""

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder = folder
        self._own = folder / "records" / f"{rank:05d}.jsonl"
        self.found: dict[Key, Record] = {}

    def begin(self, plan: Record, captions: Sequence[str]) -> None:
        """Begin the folder, or go on in one of the same plan and prompts, of which there may now be more or fewer.

        Raises `ScfgError` where its images were made in another way.
        """
        known, before = self._known("plan.json", plan), self._known("captions.json", list(captions))
        common = min(len(before), len(captions))
        if known != plan or before[:common] != list(captions[:common]):
            raise ScfgError(
                f"expected the plan of {self.folder}, {known}, got {plan}: give the same options, or another folder"
            )
        if len(captions) > len(before):
            write_whole(self.folder / "captions.json", _json(list(captions)))

    def plan(self) -> Record:
        """How the images were made. Raises `ScfgError` where none were."""
        path = self.folder / "plan.json"
        if not path.exists():
            raise ScfgError(f"expected an experiment in {self.folder}, got none: draw it without --report first")
        return json.loads(path.read_text(encoding="utf-8"))

    def _known(self, name: str, content: Any) -> Any:
        """What the file says; made with `content` where there is none."""
        path = self.folder / name
        if not path.exists():
            write_whole(path, _json(content))
        return json.loads(path.read_text(encoding="utf-8"))

    def read(self) -> None:
        """Read the lines of every process; a line that a kill has cut short is not counted."""
        self.found = {}
        for path in sorted(self._own.parent.glob("*.jsonl")):
            for line in whole_lines(path, mend=path == self._own):
                self._remember(json.loads(line))

    def missing(self, arm: str, scale: float, indices: Iterable[int]) -> list[int]:
        """Those of these prompts that the arm has not drawn yet."""
        return [index for index in indices if (arm, scale, index) not in self.found]

    def add(self, records: Sequence[Record], images: Sequence[Pixels]) -> None:
        """Keep a batch of images, (h, w, 3) uint8; it is on the disk when this returns."""
        for record, image in zip(records, images, strict=True):
            path = self.path(record["arm"], record["scale"], record["index"])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        self.annotate(records)

    def annotate(self, records: Sequence[Record]) -> None:
        """Keep what is known of images, or more of it; it is on the disk when this returns."""
        self._own.parent.mkdir(parents=True, exist_ok=True)
        with self._own.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))
            file.flush()
            os.fsync(file.fileno())
        for record in records:
            self._remember(record)

    def _remember(self, record: Record) -> None:
        self.found.setdefault((record["arm"], record["scale"], record["index"]), {}).update(record)

    def captions(self) -> list[str]:
        """The prompts by index."""
        return json.loads((self.folder / "captions.json").read_text(encoding="utf-8"))

    def path(self, arm: str, scale: float, index: int) -> Path:
        return self.folder / "images" / arm / f"{scale:g}" / f"{index:06d}.png"

    def image(self, arm: str, scale: float, index: int) -> Pixels:
        """A kept image (h, w, 3) uint8."""
        return np.asarray(Image.open(self.path(arm, scale, index)).convert("RGB"))


def whole_lines(path: Path, *, mend: bool) -> list[str]:
    """The file's lines without one that a kill has cut short, which `mend` also takes off the file."""
    if not path.exists():
        return []
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if mend and len(whole) < len(text):
        os.truncate(path, len(whole))
    return whole.decode().splitlines()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that is either the old one or the new one, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(part, path)


def _json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"
