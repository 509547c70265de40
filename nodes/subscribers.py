"""Who wants live frames: pages ask for them, with the least time between two; others get none."""

import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from aiohttp import web

PATH = "/scfg/live"
MOST_SUBSCRIBERS = 256
SHORTEST_INTERVAL, LONGEST_INTERVAL = 0.02, 60.0


@dataclass(frozen=True)
class Subscriber:
    """A client, and the least time between two frames for it in seconds."""

    client: str
    interval: float


_INTERVALS: OrderedDict[str, float] = OrderedDict()


def subscribe(client: str, interval: float | None) -> None:
    """Send `client` frames from now on, or none any more."""
    _INTERVALS.pop(client, None)
    if interval is not None:
        _INTERVALS[client] = min(max(interval, SHORTEST_INTERVAL), LONGEST_INTERVAL)
    while len(_INTERVALS) > MOST_SUBSCRIBERS:
        _INTERVALS.popitem(last=False)


def current_subscriber() -> Subscriber | None:
    """The client whose prompt is being executed, where it is connected and wants frames."""
    server = _server()
    client = None if server is None else server.client_id
    interval = None if client is None else _INTERVALS.get(client)
    if server is None or client is None or interval is None or client not in server.sockets:
        return None
    return Subscriber(client, interval)


def current_graph() -> str | None:
    """The id of the workflow that is being executed; None where no page queued it."""
    queue = getattr(_server(), "prompt_queue", None)
    for _, _, _, extra_data, *_ in list(getattr(queue, "currently_running", {}).values()):
        workflow = (extra_data.get("extra_pnginfo") or {}).get("workflow") or {}
        return workflow.get("id")
    return None


def send(event: str, data: dict[str, Any], client: str) -> None:
    server = _server()
    if server is not None:
        server.send_sync(event, data, client)


def add_route() -> None:
    """Let pages subscribe: POST {client: str, interval: seconds or null}."""
    server = _server()
    if server is not None and not any(getattr(route, "path", None) == PATH for route in server.routes):
        server.routes.post(PATH)(_answer)


async def _answer(request: web.Request) -> web.Response:
    body = await request.json()
    client, interval = body.get("client"), body.get("interval")
    number = isinstance(interval, int | float) and not isinstance(interval, bool)
    if not isinstance(client, str) or not (number or interval is None):
        return web.Response(status=400, text="expected {client: text, interval: seconds or null}")
    subscribe(client, interval)
    return web.Response(status=204)


def _server() -> Any:
    """The host's server, where there is one; not imported for us alone."""
    module = sys.modules.get("server")
    return getattr(getattr(module, "PromptServer", None), "instance", None)
