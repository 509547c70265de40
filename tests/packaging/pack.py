"""What the pack ships, read from its files: schemas, help pages, locales, settings, workflows.

The schemas are tests/data/object_info.json, which the host tests compare with what a real ComfyUI says.
"""

import ast
import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[2]
SCHEMAS: dict[str, Any] = json.loads((PACK / "tests" / "data" / "object_info.json").read_text(encoding="utf-8"))
DOCS = PACK / "web" / "docs"
LANGUAGES = ("en", "zh", "ja", "ko", "fr", "de", "es", "ru")
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def locale(language: str, name: str) -> dict[str, Any]:
    return json.loads((PACK / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def workflow(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a widget of this schema can have the value."""
    if schema["type"] == "COMBO":
        return value in schema["options"]
    if schema["type"] == "BOOLEAN":
        return isinstance(value, bool)
    if schema["type"] == "STRING":
        return isinstance(value, str)
    return isinstance(value, (int, float)) and schema["min"] <= value <= schema["max"]


TITLE = 30
"""Height of a node's title bar, which stands above its position."""

COLLAPSED = 225
"""Width of a collapsed node in Nodes 2.0; narrower in the classic renderer."""


def boxes(nodes: list[dict[str, Any]]) -> list[tuple[float, float, float, float]]:
    """x, y, width and height of nodes with their title bars, as large as either renderer draws them."""
    return [_box(node) for node in nodes]


def _box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    (x, y), (w, h) = node["pos"], node["size"]
    return (x, y - TITLE, COLLAPSED, TITLE) if node["flags"].get("collapsed") else (x, y - TITLE, w, h + TITLE)


def overlaps(rectangles: list[tuple[float, float, float, float]]) -> list[tuple]:
    """The pairs that lie over each other."""
    return [
        (one, other)
        for one, other in combinations(rectangles, 2)
        if one[0] < other[0] + other[2]
        and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3]
        and other[1] < one[1] + one[3]
    ]


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


def section(page: str, heading: str) -> str:
    """The text of a Markdown page under a heading, up to the next one."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].strip("\n")


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
