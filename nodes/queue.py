"""The host's queue: the prompt that is validated or runs, the node that samples, and what prompts share."""

import hashlib
import json
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context

from .pages import current_server

Nodes = Mapping[str, Mapping[str, Any]]
"""A prompt in API form: its nodes by id, {"class_type": str, "inputs": {name: value or link}}."""


def class_of(node: Mapping[str, Any]) -> type | None:
    """The host's class of a node of a prompt; None if it has none."""
    classes = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {})
    return classes.get(node.get("class_type"))


@dataclass(frozen=True)
class Validated:
    """What the host validates: a prompt and who queued it. Another pack may still exchange the prompt in it."""

    queued: Mapping[str, Any]

    @property
    def client(self) -> str:
        """ "" if it was no page."""
        return self.queued.get("client_id") or ""

    @property
    def nodes(self) -> Nodes:
        nodes = self.queued.get("prompt")
        return nodes if isinstance(nodes, dict) else {}


_VALIDATED: ContextVar[Validated | None] = ContextVar("the prompt that is validated", default=None)


def remember_prompt(queued: dict[str, Any]) -> dict[str, Any]:
    """Called by the host with what is queued, just before it lets the nodes validate it, in the same task."""
    _VALIDATED.set(Validated(queued))
    return queued


def add_prompt_handler() -> None:
    server = current_server()
    if server is not None and remember_prompt not in server.on_prompt_handlers:
        server.add_on_prompt_handler(remember_prompt)


def validated_prompt() -> Validated | None:
    """The prompt that is validated now; None while one runs."""
    return _VALIDATED.get()


def current_nodes() -> Nodes | None:
    """Of the prompt that is validated or runs now; None outside of the host's queue."""
    validated, context = validated_prompt(), get_executing_context()
    if validated is not None:
        return validated.nodes
    prompt = None if context is None else find_prompt(context.prompt_id)
    return None if prompt is None else prompt.nodes


@dataclass(frozen=True)
class QueuedPrompt:
    """A prompt in API form.

    number  the host's id of this prompt, new every time that it is queued.
    graph   id of the workflow that it was made from, None if no page queued it.
    outputs ids of the nodes for which it is run: those that were asked for and not refused.
    """

    number: str
    nodes: Nodes
    graph: str | None
    outputs: frozenset[str]

    @classmethod
    def of(cls, item: tuple) -> "QueuedPrompt":
        """From an item of the host's queue or history."""
        _, number, nodes, extra_data, outputs, *_ = item
        workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
        return cls(number, nodes, workflow.get("id"), frozenset(outputs))

    def leaves_alone(self, node: str) -> bool:
        """Whether what pages show of `node` stays as it is: outputs depend on it, and none of them is run."""
        depending = self._signatures(node)
        shown = [each for each in depending if getattr(class_of(self.nodes[each]), "OUTPUT_NODE", False)]
        return bool(shown) and self.outputs.isdisjoint(shown)

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
