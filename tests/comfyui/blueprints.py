"""The blueprints that the pack brings to the host's node library, written out as prompts in API form."""

import json
from typing import Any

from .graphs import Prompt, node
from .server import PACK

BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
INPUTS, OUTPUTS = -10, -20
"""Ids under which links know the subgraph's own inputs and outputs."""


def written_out(name: str, place: str, **given: Any) -> tuple[Prompt, dict[str, list]]:
    """The nodes of a blueprint, as `place`:id, and the links of its outputs by name.

    given  a link or a value of every input of its; the values of the file for widgets that are left out.
    """
    whole = json.loads((PACK / "subgraphs" / f"{name}.json").read_text())
    (subgraph,) = whole["definitions"]["subgraphs"]
    links = {link["id"]: link for link in subgraph["links"]}
    prompt: Prompt = {}
    for inner in subgraph["nodes"]:
        values = dict(zip(_widgets(inner), inner.get("widgets_values", []), strict=True))
        values.pop("control_after_generate", None)
        for slot in inner["inputs"]:
            link = links.get(slot["link"])
            if link is None:
                continue
            if link["origin_id"] != INPUTS:
                values[slot["name"]] = [f"{place}:{link['origin_id']}", link["origin_slot"]]
            elif subgraph["inputs"][link["origin_slot"]]["name"] in given:
                values[slot["name"]] = given[subgraph["inputs"][link["origin_slot"]]["name"]]
        prompt[f"{place}:{inner['id']}"] = node(inner["type"], **values)
    outputs = {
        slot["name"]: [
            f"{place}:{links[slot['linkIds'][0]]['origin_id']}",
            links[slot["linkIds"][0]]["origin_slot"],
        ]
        for slot in subgraph["outputs"]
    }
    return prompt, outputs


def _widgets(inner: dict[str, Any]) -> list[str]:
    """Names of a node's widgets, in the order in which its values are saved."""
    names = [slot["name"] for slot in inner["inputs"] if "widget" in slot]
    if inner["type"] == "KSampler":
        names.insert(names.index("seed") + 1, "control_after_generate")
    return names
