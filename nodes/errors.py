"""A node's errors where its user looks: the sentence on the node itself, at once, and no class path before it.

The host's page says only that a node failed or rejected a value; what was wrong stands behind “View details”. So
the sentence is sent to the node as well, as a status is, and taken back once the node has no complaint.
"""

from collections import OrderedDict
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

_SHOWN: OrderedDict[Place, str | None] = OrderedDict()
"""Where a message is shown, the last place last; with it what was remarked, which is shown again after the run."""
_MOST_PLACES = 1024


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
    _show(message or remarked, place, remarked)
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
        remarked = _SHOWN.get(place) if place else None
        _show(remarked, place, remarked)
        return output

    return wrapped


def _place() -> Place | None:
    """The node that is validated or runs, in the page that queued it; None where no page did."""
    context, validated = get_executing_context(), validated_prompt()
    client = validated.client if validated else getattr(current_server(), "client_id", None)
    return (client, context.node_id) if context is not None and client else None


def _show(message: str | None, place: Place | None, remarked: str | None = None) -> None:
    """Show a message on a node; None takes the last one back."""
    if place is None or (message is None and place not in _SHOWN):
        return
    _SHOWN.pop(place, None)
    if message is not None:
        _SHOWN[place] = remarked
    while len(_SHOWN) > _MOST_PLACES:
        _SHOWN.popitem(last=False)
    client, node = place
    tell(node, message or "", client)
