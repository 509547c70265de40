"""What pages ask the server: POST /scfg/live to be sent frames, POST /scfg/runs for runs behind cached images."""

import asyncio
import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from aiohttp import web

from .finished_runs import FINISHED_RUNS
from .frames import frame_of
from .live import shown_evaluations
from .pages import current_server, subscribe
from .queue import QueuedPrompt, find_prompt

LIVE, RUNS = "/scfg/live", "/scfg/runs"


def add_routes() -> None:
    server = current_server()
    if server is None or any(getattr(route, "path", None) == LIVE for route in server.routes):
        return
    server.routes.post(LIVE)(_subscribe)
    server.routes.post(RUNS)(_runs)


async def _subscribe(request: web.Request) -> web.Response:
    """{client: text, interval: seconds or null}."""
    body = await _object_in(request)
    client, interval = body.get("client"), body.get("interval")
    is_number = isinstance(interval, int | float) and not isinstance(interval, bool)
    if not isinstance(client, str) or not (is_number or interval is None):
        return web.Response(status=400, text="expected {client: text, interval: seconds or null}")
    subscribe(client, interval)
    return web.Response(status=204)


async def _runs(request: web.Request) -> web.Response:
    """{prompt: id of a queued prompt, known: ids of runs that the page has} → {runs: […]}, see `runs_of`."""
    body = await _object_in(request)
    number, known = body.get("prompt"), body.get("known")
    if not isinstance(number, str) or not isinstance(known, list):
        return web.Response(status=400, text="expected {prompt: text, known: list of texts}")
    prompt = find_prompt(number)
    if prompt is None:
        return web.json_response({"runs": []})
    text = await asyncio.to_thread(lambda: json.dumps({"runs": runs_of(prompt, known)}))
    return web.Response(text=text, content_type="application/json")


async def _object_in(request: web.Request) -> dict[str, Any]:
    """The JSON object of a body; an empty one where the body is something else."""
    try:
        body = await request.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def runs_of(prompt: QueuedPrompt, known: Collection[str]) -> list[dict[str, Any]]:
    """The runs behind the images of a prompt, one for each of its nodes that ever ran.

    node, graph, prompt  where it belongs.
    run      its id; None if no such run is known any more, and then nothing else is there.
    status, active, remedy  how it ended, see `Ending`.
    frames   as `frame_of` makes them; none of a run in `known`, or whose record is gone.
    """
    answer: list[dict[str, Any]] = []
    for node, finished in FINISHED_RUNS.behind(prompt).items():
        message: dict[str, Any] = {"node": node, "graph": prompt.graph, "prompt": prompt.number, "run": None}
        if finished is not None:
            record = None if finished.id in known else finished.record()
            frames = [] if record is None else [frame_of(record, shown) for shown in shown_evaluations(record)]
            message |= {"run": finished.id, **asdict(finished.ending), "frames": frames}
        answer.append(message)
    return answer
