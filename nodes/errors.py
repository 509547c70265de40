"""A node's errors where its user looks: the sentence on the node itself, at once, and no class path before it.

The host's page says only that a node failed or rejected a value; what was wrong stands behind “View details”. So
the sentence is sent to the node as well, as a status is, and taken back once the node has no complaint.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from comfy_execution.utils import get_executing_context

from ..scfg_core.errors import ScfgError
from .messages import tell
from .pages import current_server
from .queue import validated_prompt

Remark = Callable[[str], str | None]
"""From a text of a node to what its user should know of it although nothing is wrong; None = nothing."""

Place = tuple[str, str]
"""A client and a node that it queued."""

_SHOWING: set[Place] = set()
"""Where a message is shown."""
_REMARKS: dict[Place, str] = {}
"""What was remarked of the texts of a node that is to run: it is shown again once it has run."""


def problem(check: Callable[[str], Any], text: str | None, remark: Remark | None = None) -> bool | str:
    """For a node's `validate_inputs`, which the host asks before anything runs: True, or the message of the
    `ScfgError` that `check` raises. A text from a link is None, and not known yet.
    """
    place, message, remarked = _place(), None, None
    try:
        if text is not None:
            check(text)
            remarked = remark(text) if remark else None
    except ScfgError as error:
        message = str(error)
    if place is not None:
        _REMARKS.pop(place, None)
        if remarked:
            _REMARKS[place] = remarked
        _show(message or remarked, place)
    return message is None or message


def told(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A node's `execute` whose `ScfgError`s are shown on the node; the host shows them as plain ValueErrors."""

    @wraps(execute)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        place = _place()
        try:
            output = execute(*args, **kwargs)
        except ScfgError as error:
            _show(str(error), place)
            raise ValueError(str(error)) from error
        _show(_REMARKS.get(place) if place else None, place)
        return output

    return wrapped


def _place() -> Place | None:
    """The node that is validated or runs, in the page that queued it; None where no page did."""
    context, validated = get_executing_context(), validated_prompt()
    client = validated.client if validated else getattr(current_server(), "client_id", None)
    return (client, context.node_id) if context is not None and client else None


def _show(message: str | None, place: Place | None) -> None:
    """Show a message on a node; None takes the last one back."""
    if place is None or (message is None and place not in _SHOWING):
        return
    (_SHOWING.add if message else _SHOWING.discard)(place)
    client, node = place
    tell(node, message or "", client)
