"""What the nodes share: types of their own, fields that only newer hosts take, and the status that a user sees."""

import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..scfg_core.run.record import Evaluation, Run
from ..scfg_core.run.trace import Trace
from .live import LiveView

CATEGORY = "S-CFG"

TraceType = io.Custom("SCFG_TRACE")
ResultType = io.Custom("SCFG_RESULT")
WordWeightsType = io.Custom("SCFG_WORD_WEIGHTS")


def taken_by(constructor: Callable[..., Any], **fields: Any) -> dict[str, Any]:
    """The fields that this host's constructor knows; older hosts raise TypeError for the others."""
    known = inspect.signature(constructor).parameters
    return {name: value for name, value in fields.items() if name in known}


def advanced(kind: Any, *args: Any, **fields: Any) -> Any:
    """An input that is rarely used: folded away where the host can do that."""
    return kind.Input(*args, **fields, **taken_by(kind.Input.__init__, advanced=True))


def schema(*, search_aliases: list[str], **fields: Any) -> io.Schema:
    """An `io.Schema` in our category."""
    return io.Schema(category=CATEGORY, **fields, **taken_by(io.Schema, search_aliases=search_aliases))


_TRACES: OrderedDict[str, Trace] = OrderedDict()
_KEPT_TRACES = 32


def trace_of_node(node_id: str | None) -> Trace:
    """The trace of a node: the same one when the host runs the node again after it dropped the node's outputs.

    The host may do that under memory pressure while the sampler's latent stays cached; its run is then still here.
    """
    if node_id is None:
        return Trace()
    trace = _TRACES.pop(node_id, None) or Trace()
    _TRACES[node_id] = trace
    while len(_TRACES) > _KEPT_TRACES:
        _TRACES.popitem(last=False)
    return trace


class NodeStatus:
    """Tells each finished run's status to the log, and to the node `node_id` where a browser is open."""

    def __init__(self, node_id: str | None, remark: str = "") -> None:
        self._node_id = node_id
        self._remark = remark

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        """The status speaks of whole runs."""

    def finished(self, run: Run, status: str) -> None:
        from server import PromptServer

        status += self._remark
        logging.info(status)
        server = getattr(PromptServer, "instance", None)
        if self._node_id is not None and server is not None and server.client_id is not None:
            server.send_progress_text(status, self._node_id, server.client_id)


class NodeListener:
    """All that a node tells of its model's runs: their status, and the live view."""

    def __init__(self, node_id: str | None, remark: str = "") -> None:
        self._listeners = (NodeStatus(node_id, remark), LiveView(node_id))

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        for listener in self._listeners:
            listener.evaluated(run, evaluation)

    def finished(self, run: Run, status: str) -> None:
        for listener in self._listeners:
            listener.finished(run, status)
