"""Pages with the pack's extension: they show messages on nodes, and request frames with a minimum interval."""

import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

MAX_PAGES = 256
MIN_INTERVAL, MAX_INTERVAL = 0.02, 60.0


@dataclass(frozen=True)
class Subscriber:
    """A client and its minimum frame interval in seconds."""

    client: str
    interval: float


_INTERVALS: OrderedDict[str, float | None] = OrderedDict()
"""By client; None = no frames."""


def subscribe(client: str, interval: float | None) -> None:
    """Start sending frames to `client`, a page; stop if `interval` is None."""
    _INTERVALS.pop(client, None)
    _INTERVALS[client] = None if interval is None else min(max(interval, MIN_INTERVAL), MAX_INTERVAL)
    while len(_INTERVALS) > MAX_PAGES:
        _INTERVALS.popitem(last=False)


def is_page(client: str) -> bool:
    """Whether a client is a connected page with the pack's extension."""
    server = current_server()
    return server is not None and client in _INTERVALS and client in server.sockets


def current_page() -> str | None:
    """The client whose prompt is running, if it is a page."""
    client = getattr(current_server(), "client_id", None)
    return client if client is not None and is_page(client) else None


def current_subscriber() -> Subscriber | None:
    """The client whose prompt is running, if it is connected and subscribed."""
    client = current_page()
    interval = None if client is None else _INTERVALS.get(client)
    return None if client is None or interval is None else Subscriber(client, interval)


def send(event: str, data: dict[str, Any], client: str) -> None:
    server = current_server()
    if server is not None:
        server.send_sync(event, data, client)


def current_server() -> Any:
    """The host's server, or None; never imported by this module."""
    module = sys.modules.get("server")
    return getattr(getattr(module, "PromptServer", None), "instance", None)
