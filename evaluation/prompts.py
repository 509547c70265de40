"""Prompts of an experiment: a caption file in COCO's format, or one prompt per line."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from scfg_core import ScfgError


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the name of the picture file that it describes, where there is one."""

    caption: str
    image: str | None = None


def read_prompts(path: Path, count: int, seed: int = 0) -> list[Prompt]:
    """`count` prompts.

    A .json file is COCO's captions_*.json: its images in an order shuffled by `seed`, each with the first of its
    captions, so that a longer list begins with the shorter one. Any other file has one prompt per line, in order.
    Raises `ScfgError` where there are too few.
    """
    text = path.read_text(encoding="utf-8")
    found = _coco(text, seed) if path.suffix == ".json" else _lines(text)
    if len(found) < count:
        raise ScfgError(
            f"expected {count} prompts in {path.name}, got {len(found)}: "
            "ask for fewer with --prompts, or give a longer file"
        )
    return found[:count]


def _coco(text: str, seed: int) -> list[Prompt]:
    content = json.loads(text)
    if not isinstance(content, dict) or not {"images", "annotations"} <= set(content):
        raise ScfgError(
            f'expected a JSON object with "images" and "annotations", got a {type(content).__name__}: '
            "give a captions_*.json of COCO, or a .txt file with one prompt per line"
        )
    captions: dict[int, tuple[int, str]] = {}
    for annotation in content["annotations"]:
        first = captions.get(annotation["image_id"])
        if first is None or annotation["id"] < first[0]:
            captions[annotation["image_id"]] = annotation["id"], " ".join(annotation["caption"].split())
    images = sorted(
        (image for image in content["images"] if image["id"] in captions), key=lambda image: image["id"]
    )
    random.Random(seed).shuffle(images)  # nosec B311
    return [Prompt(captions[image["id"]][1], image["file_name"]) for image in images]


def _lines(text: str) -> list[Prompt]:
    return [Prompt(line.strip()) for line in text.splitlines() if line.strip()]
