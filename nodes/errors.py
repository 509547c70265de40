"""A node's errors where its user looks: the sentence on the node itself, at once, and no class path before it.

The host's page says only that a node failed or rejected a value; what was wrong stands behind “View details”. So
the sentence is sent to the node as well, as a status is, and taken back once the node has no complaint.
"""

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

from comfy_execution.utils import get_executing_context

from ..scfg_core.errors import ScfgError
from .messages import tell
from .pages import current_server

NOBODY = ""
_QUEUING: ContextVar[str | None] = ContextVar("client that queues the prompt being validated", default=None)
"""`NOBODY` where it is queued by no page; None where none is being validated."""
_SHOWING: set[tuple[str, str]] = set()
"""Clients and nodes that show an error."""


def remember_client(queued: dict[str, Any]) -> dict[str, Any]:
    """Called by the host with what a page queues, just before it lets the nodes validate it, in the same task."""
    _QUEUING.set(queued.get("client_id") or NOBODY)
    return queued


def add_prompt_handler() -> None:
    server = current_server()
    if server is not None and remember_client not in server.on_prompt_handlers:
        server.add_on_prompt_handler(remember_client)


def problem(check: Callable[[str], Any], text: str | None) -> bool | str:
    """For a node's `validate_inputs`, which the host asks before anything runs: True, or the message of the
    `ScfgError` that `check` raises. A text from a link is None, and not known yet.
    """
    message = None
    try:
        if text is not None:
            check(text)
    except ScfgError as error:
        message = str(error)
    _show(message)
    return message is None or message


def told(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A node's `execute` whose `ScfgError`s are shown on the node; the host shows them as plain ValueErrors."""

    @wraps(execute)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            output = execute(*args, **kwargs)
        except ScfgError as error:
            _show(str(error))
            raise ValueError(str(error)) from error
        _show(None)
        return output

    return wrapped


def _show(message: str | None) -> None:
    """Show a message on the node that is asked or run, in the page that queued it; None takes the last one back."""
    context = get_executing_context()
    queuing = _QUEUING.get()
    client = getattr(current_server(), "client_id", None) if queuing is None else queuing
    if context is None or not client:
        return
    place = (client, context.node_id)
    if message is not None:
        _SHOWING.add(place)
    elif place in _SHOWING:
        _SHOWING.remove(place)
    else:
        return
    tell(context.node_id, message or "", client)
