"""What graphs of users rely on: ids, the order of inputs and outputs, types, defaults. And what the host serves.

Where a change is meant, write the golden anew: UPDATE_OBJECT_INFO=1 python -m pytest tests/comfyui/test_contract.py
with the newest host.
"""

import json
import os
from typing import Any

import pytest

from . import host
from .server import FOLDER, PACK, Server

GOLDEN = PACK / "tests" / "data" / "object_info.json"
KEPT = ("default", "options", "min", "max", "step", "multiline", "dynamicPrompts", "tooltip")
TEXTS = ("tooltip", "description", "display_name")
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
PAGE_ONLY = ("Note", "MarkdownNote", "Reroute", "PrimitiveNode")
"""Nodes that the page has, and the server does not know."""


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def object_info(server):
    return server.get("/object_info")


@pytest.fixture(scope="module")
def schemas(object_info):
    found = {node: schema_of(info) for node, info in object_info.items() if FOLDER in info["python_module"]}
    if os.environ.get("UPDATE_OBJECT_INFO"):
        GOLDEN.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return found


def schema_of(info: dict[str, Any]) -> dict[str, Any]:
    """A node's entry of /object_info, less what only newer hosts have."""
    inputs = []
    for part in ("required", "optional"):
        for name, (kind, *more) in info["input"].get(part, {}).items():
            fields = {key: value for key, value in (more[0] if more else {}).items() if key in KEPT}
            if not isinstance(kind, str):
                kind, fields["options"] = "COMBO", kind
            optional = {"optional": True} if part == "optional" else {}
            inputs.append({"id": name, "type": kind, **optional, **fields})
    tooltips = info.get("output_tooltips") or [None] * len(info["output"])
    outputs = zip(info["output_name"], info["output"], tooltips, strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "category": info["category"],
        "output_node": info["output_node"],
        "inputs": inputs,
        "outputs": [{"name": name, "type": kind, "tooltip": tooltip} for name, kind, tooltip in outputs],
    }


def without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_texts(inner) for key, inner in value.items() if key not in TEXTS}
    return [without_texts(inner) for inner in value] if isinstance(value, list) else value


def golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_nodes_inputs_and_outputs_are_those_that_graphs_rely_on(schemas):
    assert list(schemas) == list(golden())
    assert without_texts(schemas) == without_texts(golden())


def test_texts_are_those_that_help_and_locales_were_written_for(schemas):
    assert schemas == golden()


def test_inputs_added_later_are_optional_and_last(schemas):
    """Widgets are saved by their place."""
    for node, schema in schemas.items():
        optional = [bool(each.get("optional")) for each in schema["inputs"]]
        assert optional == sorted(optional), node


def test_newer_hosts_find_the_nodes_by_other_names_and_fold_rare_inputs(object_info):
    if host.version() < (0, 33):
        pytest.skip("older hosts have no search aliases")
    for node in golden():
        assert object_info[node]["search_aliases"], node
    assert object_info["SCFGAttention"]["input"]["required"]["layers"][1]["advanced"]


def test_help_pages_and_pictures_are_served_under_any_folder_name(server):
    for node in golden():
        assert server.get(f"/extensions/{FOLDER}/docs/{node}.md").decode().startswith("# ")
        for folder in (PACK / "locales").iterdir():
            title = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))[node]["display_name"]
            served = server.get(f"/extensions/{FOLDER}/docs/{node}/{folder.name}.md").decode()
            assert served.startswith(f"# {title}\n")
    for path in (PACK / "web" / "docs").glob("*.png"):
        assert server.get(f"/extensions/{FOLDER}/docs/{path.name}")[:4] == b"\x89PNG"


def test_the_host_serves_every_language(server):
    served = server.get("/i18n")
    for folder in (PACK / "locales").iterdir():
        for name in ("nodeDefs", "settings"):
            ours = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
            assert served[folder.name][name].items() >= ours.items()


def test_workflows_are_templates_with_thumbnails(server):
    listed = server.get("/workflow_templates")[FOLDER]
    assert sorted(listed) == [path.stem for path in WORKFLOWS]
    for path in WORKFLOWS:
        picture = server.get(f"/api/workflow_templates/{FOLDER}/{path.stem}.jpg")
        assert picture[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_uses_nodes_slots_and_options_that_the_host_has(object_info, path):
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        if node["type"] in PAGE_ONLY:
            continue
        if node["type"] not in object_info and host.version() < (0, 33):
            pytest.skip(f"this ComfyUI has no {node['type']}")
        schema = schema_of(object_info[node["type"]])
        inputs = {each["id"]: each for each in schema["inputs"]}
        for slot in node["inputs"]:
            assert slot["name"] in inputs, (node["type"], slot["name"])
        outputs = [each["type"] for each in schema["outputs"]]  # older hosts may have fewer
        assert [slot["type"] for slot in node["outputs"]][: len(outputs)] == outputs
        for name, value in node.get("widgets_values_named", {}).items():
            options = inputs.get(name, {}).get("options")
            if options and not isinstance(options[0], dict) and not is_file(value):
                assert value in options, (node["type"], name, value)


def is_file(value: Any) -> bool:
    return isinstance(value, str) and value.endswith((".safetensors", ".pth", ".png", ".jpg"))
