"""Shared by all nodes: custom types, fields of newer hosts, and the status of a finished run."""

import inspect
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..scfg_core.run.evaluation import Observation
from ..scfg_core.run.record import Run
from ..scfg_core.run.trace import Trace
from .live import LiveView
from .messages import tell
from .pages import current_page

CATEGORY = "S-CFG"
MODEL_TOOLTIP = (
    "A Stable Diffusion 1.x, 2.x or SDXL model; experimental: transformers such as SD 3.5 or Qwen-Image."
)

TraceType = io.Custom("SCFG_TRACE")
ResultType = io.Custom("SCFG_RESULT")
WordWeightsType = io.Custom("SCFG_WORD_WEIGHTS")


def supported_kwargs(constructor: Callable[..., Any], **kwargs: Any) -> dict[str, Any]:
    """The arguments that this host's constructor accepts; older hosts raise TypeError for the others."""
    parameters = inspect.signature(constructor).parameters
    return {name: value for name, value in kwargs.items() if name in parameters}


def advanced(kind: Any, *args: Any, **fields: Any) -> Any:
    """A rarely used input, collapsed where the host supports it."""
    return kind.Input(*args, **fields, **supported_kwargs(kind.Input.__init__, advanced=True))


def fraction(name: str, default: float, tooltip: str) -> Any:
    """A number from 0 to 1, in hundredths."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip)


def schema(*, search_aliases: list[str], **fields: Any) -> io.Schema:
    """An `io.Schema` in our category."""
    return io.Schema(category=CATEGORY, **fields, **supported_kwargs(io.Schema, search_aliases=search_aliases))


_TRACES: OrderedDict[str, Trace] = OrderedDict()
_MAX_TRACES = 32


def trace_of_node(node_id: str | None) -> Trace:
    """The trace of a node, kept when the host runs the node again after dropping its outputs.

    The host drops them under memory pressure while the sampler's latent stays cached; its run is then still found.
    """
    if node_id is None:
        return Trace()
    trace = _TRACES.pop(node_id, None) or Trace()
    _TRACES[node_id] = trace
    while len(_TRACES) > _MAX_TRACES:
        _TRACES.popitem(last=False)
    return trace


class NodeStatus:
    """Sends the status of every finished run to the log, and to the node `node_id` of a client without our page."""

    def __init__(self, node_id: str | None, remark: str = "") -> None:
        self._node_id = node_id
        self._remark = remark

    def evaluated(self, run: Run, evaluation: Observation) -> None:
        """Nothing to do: the status describes a whole run."""

    def finished(self, run: Run, status: str) -> None:
        status += self._remark
        logging.info(status)
        if self._node_id is not None and current_page() is None:
            tell(self._node_id, status)


def listeners_of(node_id: str | None, remark: str = "") -> tuple[NodeStatus, LiveView]:
    """What reports a model's runs on its node: the status line and the live view."""
    return NodeStatus(node_id, remark), LiveView(node_id, remark)
