"""Subscribers of the live view: pages request frames, with a minimum interval between two."""

import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from aiohttp import web

PATH = "/scfg/live"
MAX_SUBSCRIBERS = 256
MIN_INTERVAL, MAX_INTERVAL = 0.02, 60.0


@dataclass(frozen=True)
class Subscriber:
    """A client and its minimum frame interval in seconds."""

    client: str
    interval: float


_INTERVALS: OrderedDict[str, float] = OrderedDict()


def subscribe(client: str, interval: float | None) -> None:
    """Start sending frames to `client`; stop if `interval` is None."""
    _INTERVALS.pop(client, None)
    if interval is not None:
        _INTERVALS[client] = min(max(interval, MIN_INTERVAL), MAX_INTERVAL)
    while len(_INTERVALS) > MAX_SUBSCRIBERS:
        _INTERVALS.popitem(last=False)


def current_subscriber() -> Subscriber | None:
    """The client whose prompt is running, if it is connected and subscribed."""
    server = current_server()
    client = None if server is None else server.client_id
    interval = None if client is None else _INTERVALS.get(client)
    if server is None or client is None or interval is None or client not in server.sockets:
        return None
    return Subscriber(client, interval)


def current_graph() -> str | None:
    """Id of the running workflow; None if no page queued it."""
    queue = getattr(current_server(), "prompt_queue", None)
    for _, _, _, extra_data, *_ in list(getattr(queue, "currently_running", {}).values()):
        workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
        return workflow.get("id")
    return None


def send(event: str, data: dict[str, Any], client: str) -> None:
    server = current_server()
    if server is not None:
        server.send_sync(event, data, client)


def add_route() -> None:
    """Let pages subscribe: POST {client: str, interval: seconds or null}."""
    server = current_server()
    if server is not None and not any(getattr(route, "path", None) == PATH for route in server.routes):
        server.routes.post(PATH)(_handle_post)


async def _handle_post(request: web.Request) -> web.Response:
    body = await request.json()
    client, interval = body.get("client"), body.get("interval")
    is_number = isinstance(interval, int | float) and not isinstance(interval, bool)
    if not isinstance(client, str) or not (is_number or interval is None):
        return web.Response(status=400, text="expected {client: text, interval: seconds or null}")
    subscribe(client, interval)
    return web.Response(status=204)


def current_server() -> Any:
    """The host's server, or None; never imported by this module."""
    module = sys.modules.get("server")
    return getattr(getattr(module, "PromptServer", None), "instance", None)
