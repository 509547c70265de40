"""The live view: while a model samples, its regions and scales go to the page that queued the prompt.

The sampling thread only checks the clock and puts an evaluation in a short queue; a worker thread copies it from
the device, packs it and sends it. A full queue drops its oldest frame. Nothing happens unless a client is connected
and has subscribed.
"""

import itertools
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..scfg_core.run.evaluation import Evaluation, Observation
from ..scfg_core.run.record import Run
from ..views.segmentation import spread_out
from .frames import frame_of
from .subscribers import current_graph, current_subscriber, send

EVENT = "scfg.step"
QUEUE_SIZE = 4
MAX_FRAMES = 48
"""Frames of a run that the page has at the end of the run."""


@dataclass
class LiveRun:
    """A run shown on a page.

    number  counts the runs of this process.
    graph   id of the queued workflow, None if no page queued it.
    sent    indices of the evaluations that the page has.
    """

    number: int
    graph: str | None
    sent: set[int] = field(default_factory=set)


class Worker:
    """A thread that runs jobs in order and drops the oldest when more than `QUEUE_SIZE` are waiting."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque(maxlen=QUEUE_SIZE)
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, job: Callable[[], None]) -> None:
        with self._changed:
            self._jobs.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="scfg live view", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._jobs) > 0)
                job = self._jobs.popleft()
            try:
                job()
            except Exception:
                logging.exception("S-CFG live view: could not show a frame")
            del job


_WORKER = Worker()
_RUN_NUMBERS = itertools.count(1)


class LiveView:
    """A listener that shows the runs of one node; see `scfg_core.hosts.comfyui.attach.Listener`."""

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._live_run: LiveRun | None = None
        self._run: Callable[[], Run | None] = lambda: None
        self._last_sent = 0.0

    def evaluated(self, run: Run, evaluation: Observation) -> None:
        subscriber = current_subscriber() if self._node_id is not None else None
        if subscriber is None:
            return
        now = time.monotonic()
        if self._live_run is None or self._run() is not run:
            self._live_run, self._run = LiveRun(next(_RUN_NUMBERS), current_graph()), weakref.ref(run)
        elif now - self._last_sent < subscriber.interval:
            return
        self._last_sent = now
        client, live_run = subscriber.client, self._live_run
        _WORKER.add(lambda: self._send(client, live_run, run, evaluation))

    def finished(self, run: Run, status: str) -> None:
        """Send the frames that were skipped, so that every step can be viewed."""
        live_run, self._live_run = self._live_run, None
        subscriber = current_subscriber()
        if live_run is not None and subscriber is not None and self._run() is run:
            client = subscriber.client
            _WORKER.add(lambda: self._send_skipped(client, live_run, run))

    def _send_skipped(self, client: str, live_run: LiveRun, run: Run) -> None:
        for index in spread_out(len(run.evaluations), MAX_FRAMES):
            evaluation = run.evaluations[index]
            if evaluation.index not in live_run.sent:
                self._send(client, live_run, run, evaluation)

    def _send(self, client: str, live_run: LiveRun, run: Run, evaluation: Observation | Evaluation) -> None:
        frame: dict[str, Any] = frame_of(run, evaluation.read())
        live_run.sent.add(evaluation.index)
        send(EVENT, {"node": self._node_id, "graph": live_run.graph, "run": live_run.number, **frame}, client)
