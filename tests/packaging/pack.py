"""What the pack ships, read from its files: schemas, help pages, locales, settings, workflows.

The schemas are tests/data/object_info.json, which the host tests compare with what a real ComfyUI says.
"""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[2]
SCHEMAS: dict[str, Any] = json.loads((PACK / "tests" / "data" / "object_info.json").read_text(encoding="utf-8"))
DOCS = PACK / "web" / "docs"
LANGUAGES = ("en", "zh", "ja", "ko", "fr", "de", "es", "ru")
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def locale(language: str, name: str) -> dict[str, Any]:
    return json.loads((PACK / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def workflow(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def settings() -> dict[str, dict[str, Any]]:
    """name, tooltip and category of the settings that the page registers, by id; as web/scfg.js writes them."""
    source = (PACK / "web" / "scfg.js").read_text(encoding="utf-8")
    constants = dict(re.findall(r'const (\w+) = "([^"]+)"', source))
    pattern = r'id: (\w+),\s*category: (\[[^]]+\]),\s*name: "([^"]+)",\s*tooltip: "([^"]+)"'
    found = re.findall(pattern, source)
    assert len(found) == source.count("defaultValue:"), "a setting is written in another order"
    return {
        constants[name]: {"category": json.loads(category), "name": title, "tooltip": tooltip}
        for name, category, title, tooltip in found
    }


def entries(page: str, heading: str) -> list[tuple[str, str, str]]:
    """Name, type and text of the entries "- `name` (TYPE): text" in a section of a help page; [] if it has none."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^- `(\w+)` \((\w+)\): (.+)$", section, re.M)


def errors() -> list[str]:
    """The beginning of every error that a node raises: what was expected, up to the first value."""
    beginnings: set[str] = set()
    for path in (PACK / "nodes").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                beginnings |= {text.partition(",")[0] for text in _texts(node.exc.args[0])}
    return sorted(beginnings)


def _texts(value: ast.expr) -> Iterator[str]:
    """The text of a string constant, or of an f-string up to its first value."""
    first = value.values[0] if isinstance(value, ast.JoinedStr) else value
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        yield first.value.partition(": {")[0].strip(" :")
