"""Every node has a help page that names what the node really has."""

import re

import pytest

from .pack import DOCS, SCHEMAS, section

SECTIONS = ("Inputs", "Outputs", "What it does not do", "Inactive", "Order with other nodes")
NODES = sorted(SCHEMAS)
ITEM = re.compile(r"^- \*\*(\w+)\*\* \(([A-Z_]+)\) — \S", re.M)


def page(node: str) -> str:
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def test_there_is_one_page_for_every_node_and_none_for_others():
    assert sorted(path.stem for path in DOCS.glob("*.md")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_a_page_has_the_nodes_name_and_every_section(node):
    text = page(node)
    assert text.startswith(f"# {SCHEMAS[node]['display_name']}\n")
    assert [name for name in re.findall(r"^## (.+)$", text, re.M) if name in SECTIONS] == list(SECTIONS)


@pytest.mark.parametrize("node", NODES)
def test_a_page_lists_every_input_and_output_with_its_type(node):
    schema = SCHEMAS[node]
    inputs = [(each["id"], each["type"]) for each in schema["inputs"]]
    outputs = [(each["name"], each["type"]) for each in schema["outputs"]]
    for heading, expected in (("Inputs", inputs), ("Outputs", outputs)):
        assert ITEM.findall(section(page(node), heading)) == expected


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_page_fits_the_narrow_panel_of_the_host(path):
    """A table would be cut off there, and so would a long line of code."""
    text = path.read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("|")] == []
    assert "```" not in text


@pytest.mark.parametrize("node", NODES)
def test_a_page_names_only_inputs_and_nodes_that_exist(node):
    inputs = {each["id"] for schema in SCHEMAS.values() for each in schema["inputs"]}
    outputs = {each["name"] for schema in SCHEMAS.values() for each in schema["outputs"]}
    options = {
        option for schema in SCHEMAS.values() for each in schema["inputs"] for option in each.get("options", ())
    }
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", page(node)))
    assert named <= inputs | outputs | options
    titles = {schema["display_name"] for schema in SCHEMAS.values()}
    assert set(re.findall(r"\*(S-CFG [A-Z][\w ]+)\*", page(node))) <= titles


@pytest.mark.parametrize("node", NODES)
def test_a_page_explains_every_option_of_its_node(node):
    options = [option for each in SCHEMAS[node]["inputs"] for option in each.get("options", ())]
    assert [option for option in options if f"`{option}`" not in page(node)] == []


def test_every_image_that_a_page_shows_is_there_and_no_other():
    shown = {name for node in NODES for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page(node))}
    assert shown == {path.name for path in DOCS.glob("*.png")}
