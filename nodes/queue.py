"""The host's queue: the prompt that runs, the node that samples, and whether nodes of two prompts do the same."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context

from .pages import current_server


@dataclass(frozen=True)
class QueuedPrompt:
    """A prompt in API form.

    number  the host's id of this prompt, new every time that it is queued.
    nodes   by id: {"class_type": str, "inputs": {name: value or link}}.
    graph   id of the workflow that it was made from, None if no page queued it.
    """

    number: str
    nodes: Mapping[str, Mapping[str, Any]]
    graph: str | None

    @classmethod
    def of(cls, item: tuple) -> "QueuedPrompt":
        """From an item of the host's queue or history."""
        _, number, nodes, extra_data, *_ = item
        workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
        return cls(number, nodes, workflow.get("id"))

    def signature(self, node: str, through: str) -> str | None:
        """What `node` computes: everything upstream of it, whatever the other nodes' ids are. None if it does not
        depend on the node `through`.

        The host's cache knows nodes by the same, so a cached output is that of a node with the same signature.
        """
        return self._signatures(through).get(node)

    def signatures(self, through: str) -> frozenset[str]:
        """Of all nodes that depend on the node `through`."""
        return frozenset(self._signatures(through).values())

    def _signatures(self, through: str) -> dict[str, str]:
        known: dict[str, tuple[str, bool]] = {}

        def describe(node: str) -> tuple[str, bool]:
            """Signature, and whether `through` is in it."""
            if node in known:
                return known[node]
            found = self.nodes.get(node, {})
            depends, inputs = node == through, {}
            for name, value in found.get("inputs", {}).items():
                if is_link(value):
                    upstream, is_downstream = describe(value[0])
                    depends |= is_downstream
                    value = {"link": [upstream, value[1]]}
                inputs[name] = value
            content = [found.get("class_type"), node == through, inputs]
            text = json.dumps(content, sort_keys=True, default=str)
            known[node] = hashlib.sha256(text.encode()).hexdigest(), depends
            return known[node]

        for node in self.nodes:
            describe(node)
        return {node: signature for node, (signature, depends) in known.items() if depends}


@dataclass(frozen=True)
class Origin:
    """The node of a queued prompt that samples, and the node of ours that takes part."""

    prompt: QueuedPrompt
    sampler: str
    node: str

    @cached_property
    def signature(self) -> str | None:
        return self.prompt.signature(self.sampler, through=self.node)


def current_origin(node: str) -> Origin | None:
    """Where the host is now, seen from the node `node` of ours; None outside of the host's queue."""
    context = get_executing_context()
    if context is None:
        return None
    prompt = find_prompt(context.prompt_id)
    sampler = context.node_id.partition(".")[0]  # a node made by another one belongs to it
    return None if prompt is None else Origin(prompt, sampler, node)


def find_prompt(number: str) -> QueuedPrompt | None:
    """A prompt that runs or ran."""
    queue = getattr(current_server(), "prompt_queue", None)
    if queue is None:
        return None
    for item in list(queue.currently_running.values()):
        if item[1] == number:
            return QueuedPrompt.of(item)
    finished = queue.get_history(prompt_id=number, map_function=lambda entry: entry["prompt"])
    return QueuedPrompt.of(finished[number]) if number in finished else None
