"""Every workflow that the pack ships fits the nodes' schemas, and says what to look at."""

import re
from typing import Any

import pytest

from .pack import PACK, SCHEMAS, WIDGET_TYPES, WORKFLOWS, boxes, fits, overlaps, workflow

NAMES = [path.stem for path in WORKFLOWS]

WINDOW, FILL, PADDING = (1500, 950), 0.75, 10
"""What the page fits the nodes to when a template opens: this part of the window, with a padding around them."""

READABLE = 0.74
"""Zoom at which text of 14 px is 10 px high. Below 8 px the classic renderer draws none."""


@pytest.fixture(params=WORKFLOWS, ids=NAMES)
def graph(request) -> dict[str, Any]:
    return workflow(request.param)


def ours(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in graph["nodes"] if node["type"].startswith("SCFG")]


def test_it_has_our_nodes_and_only_those_that_there_are(graph):
    assert ours(graph)
    assert {node["type"] for node in ours(graph)} <= SCHEMAS.keys()


def test_the_widgets_of_our_nodes_are_in_order_and_in_range(graph):
    for node in ours(graph):
        widgets = [each for each in SCHEMAS[node["type"]]["inputs"] if each["type"] in WIDGET_TYPES]
        values = node.get("widgets_values", [])
        assert len(values) == len(widgets), node["type"]
        for value, schema in zip(values, widgets, strict=True):
            assert fits(value, schema), (node["type"], schema["id"], value)


def test_the_slots_of_our_nodes_are_those_of_the_schema(graph):
    for node in ours(graph):
        schema = SCHEMAS[node["type"]]
        inputs = {each["id"]: each["type"] for each in schema["inputs"]}
        assert all(inputs[slot["name"]] == slot["type"] for slot in node["inputs"]), node["type"]
        outputs = [(each["name"], each["type"]) for each in schema["outputs"]]
        assert [(slot["name"], slot["type"]) for slot in node["outputs"]] == outputs


def test_no_required_input_of_our_nodes_is_left_open(graph):
    for node in ours(graph):
        sockets = [
            each["id"]
            for each in SCHEMAS[node["type"]]["inputs"]
            if each["type"] not in WIDGET_TYPES and not each.get("optional")
        ]
        linked = {slot["name"] for slot in node["inputs"] if slot["link"] is not None}
        assert set(sockets) <= linked, node["type"]


def test_every_link_has_two_ends_of_one_type(graph):
    assert len({number for number, *_ in graph["links"]}) == len(graph["links"])
    nodes = {node["id"]: node for node in graph["nodes"]}
    for number, source, output, target, place, kind in graph["links"]:
        assert number in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
        assert kind in (nodes[target]["inputs"][place]["type"], "*")


def test_it_is_in_groups_and_a_note_says_what_to_look_at(graph):
    assert graph["groups"] and all(group["title"] for group in graph["groups"])
    assert any(node["type"] in ("Note", "MarkdownNote") for node in graph["nodes"])


def test_a_title_that_names_a_step_shows_that_step(graph):
    for node in graph["nodes"]:
        named = re.search(r"step (\d+)", node.get("title", ""))
        if named:
            place = {"SCFGSegmentation": 1, "SCFGScaleMap": 0}[node["type"]]
            assert node["widgets_values"][place] == int(named[1])


def test_it_stands_on_its_own(graph):
    assert "widgets_values" in str(graph)
    assert not re.search(r"/(home|root|tmp|Users)/|\\Users\\", str(graph))


def test_values_saved_by_name_are_those_saved_by_place(graph):
    for node in graph["nodes"]:
        assert list(node.get("widgets_values_named", {}).values()) in ([], node.get("widgets_values")), node["id"]


def test_every_workflow_has_a_thumbnail_and_every_thumbnail_a_workflow():
    assert sorted(path.stem for path in (PACK / "workflows").glob("*.jpg")) == NAMES


def test_every_node_lies_in_a_group_and_none_over_another(graph):
    groups = [group["bounding"] for group in graph["groups"]]
    placed = boxes(graph["nodes"])
    assert all(any(_contains(group, box) for group in groups) for box in placed)
    assert overlaps(placed) == []


def test_no_group_lies_over_another(graph):
    assert overlaps([group["bounding"] for group in graph["groups"]]) == []


def test_its_text_can_be_read_when_it_opens(graph):
    left, top, right, bottom = zip(*((x, y, x + w, y + h) for x, y, w, h in boxes(graph["nodes"])), strict=True)
    sides = (max(right) - min(left), max(bottom) - min(top))
    zoom = min(FILL * window / (side + 2 * PADDING) for window, side in zip(WINDOW, sides, strict=True))
    assert zoom >= READABLE


def _contains(outer, inner) -> bool:
    (x, y, w, h), (a, b, c, d) = outer, inner
    return x <= a and y <= b and a + c <= x + w and b + d <= y + h
