"""Every blueprint of the host's node library fits the nodes' schemas, and its inputs and outputs lead somewhere."""

import re
from typing import Any

import pytest

from .pack import BLUEPRINTS, SCHEMAS, WIDGET_TYPES, boxes, fits, overlaps, workflow

INPUTS, OUTPUTS = -10, -20
"""Ids under which links know the subgraph's own inputs and outputs."""

HOST = {"KSampler", "VAEDecode"}


@pytest.fixture(params=BLUEPRINTS, ids=lambda path: path.stem)
def blueprint(request) -> dict[str, Any]:
    return workflow(request.param) | {"file": request.param.stem}


@pytest.fixture
def definition(blueprint) -> dict[str, Any]:
    (definition,) = blueprint["definitions"]["subgraphs"]
    return definition


def test_there_are_two():
    assert [path.stem for path in BLUEPRINTS] == ["S-CFG Mask from Words", "S-CFG Sampler with Views"]


def test_it_is_one_node_of_the_files_name_with_a_description(blueprint, definition):
    (node,) = blueprint["nodes"]
    assert node["type"] == definition["id"] and blueprint["links"] == []
    assert node["title"] == definition["name"] == blueprint["file"]
    assert definition["category"] == "S-CFG"
    assert definition["description"].endswith(".")
    assert blueprint["extra"]["BlueprintDescription"] == definition["description"]
    assert "scfg" in blueprint["extra"]["BlueprintSearchAliases"]


def test_the_node_has_the_inputs_and_outputs_of_its_subgraph(blueprint, definition):
    (node,) = blueprint["nodes"]
    for kind in ("inputs", "outputs"):
        assert [(slot["name"], slot["type"]) for slot in node[kind]] == [
            (slot["name"], slot["type"]) for slot in definition[kind]
        ]
    widgets = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    assert widgets == [slot["name"] for slot in definition["inputs"] if slot["type"] in WIDGET_TYPES]


def test_every_link_has_two_ends_of_one_type(definition):
    nodes = {node["id"]: node for node in definition["nodes"]}
    assert len({link["id"] for link in definition["links"]}) == len(definition["links"])
    for link in definition["links"]:
        source, target, number = link["origin_id"], link["target_id"], link["id"]
        start = (definition["inputs"] if source == INPUTS else nodes[source]["outputs"])[link["origin_slot"]]
        end = (definition["outputs"] if target == OUTPUTS else nodes[target]["inputs"])[link["target_slot"]]
        assert number in start["linkIds" if source == INPUTS else "links"]
        assert number in end["linkIds"] if target == OUTPUTS else number == end["link"]
        assert {start["type"], end["type"]} == {link["type"]}
    assert all(slot["linkIds"] for slot in definition["inputs"] + definition["outputs"])


def test_its_nodes_are_ours_or_the_hosts_and_as_the_schemas_say(definition):
    for node in definition["nodes"]:
        if node["type"] in HOST:
            continue
        schema = SCHEMAS[node["type"]]
        assert [(slot["name"], slot["type"]) for slot in node["inputs"]] == [
            (each["id"], each["type"]) for each in schema["inputs"]
        ]
        assert [(slot["name"], slot["type"]) for slot in node["outputs"]] == [
            (each["name"], each["type"]) for each in schema["outputs"]
        ]
        widgets = [each for each in schema["inputs"] if each["type"] in WIDGET_TYPES]
        values = node.get("widgets_values", [])
        assert len(values) == len(widgets), node["type"]
        assert all(fits(value, each) for value, each in zip(values, widgets, strict=True))
        open_sockets = [slot for slot in node["inputs"] if slot["link"] is None and "widget" not in slot]
        assert all(slot.get("shape") == 7 for slot in open_sockets), node["type"]


def test_no_node_lies_over_another_and_it_stands_on_its_own(blueprint, definition):
    assert overlaps(boxes(definition["nodes"])) == []
    assert not re.search(r"/(home|root|tmp|Users)/|\\Users\\", str(blueprint))
