"""The live view: while a model samples, its regions and scales go to the page that queued the prompt.

The sampling thread only checks the clock and puts an evaluation in a short queue; a worker thread copies it from
the device, packs it and sends it. A full queue drops its oldest frame. Nothing happens unless a client is connected
and has subscribed. How a run ended is one short message.
"""

import itertools
import logging
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ..scfg_core.run.evaluation import Evaluation, Observation
from ..scfg_core.run.record import Run
from ..views.segmentation import spread_out
from .finished_runs import FINISHED_RUNS, Ending
from .frames import frame_of
from .pages import current_page, current_subscriber, send
from .queue import Origin, current_origin

FRAME, END = "scfg.step", "scfg.run"
QUEUE_SIZE = 4
MAX_FRAMES = 48
"""Frames of a run that the page has at the end of the run."""

_PROCESS = uuid.uuid4().hex[:8]
_NUMBERS = itertools.count(1)


@dataclass
class LiveRun:
    """A run shown on a page.

    origin  None if it was started outside of the host's queue.
    id      unique, also among servers.
    sent    indices of the evaluations that the page has.
    """

    node: str
    origin: Origin | None
    id: str = field(default_factory=lambda: f"{_PROCESS}.{next(_NUMBERS)}")
    sent: set[int] = field(default_factory=set)

    def address(self) -> dict[str, Any]:
        """Where a message of this run belongs."""
        prompt = None if self.origin is None else self.origin.prompt
        place = {"graph": prompt and prompt.graph, "prompt": prompt and prompt.number}
        return {"node": self.node, "run": self.id, **place}


def shown_evaluations(run: Run) -> Iterator[Evaluation]:
    """The evaluations of a closed run that a page gets."""
    for index in spread_out(len(run.evaluations), MAX_FRAMES):
        yield run.evaluations[index]


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


class LiveView:
    """A listener that shows the runs of one node; see `scfg_core.hosts.comfyui.attach.Listener`.

    remark  follows the status of every run.
    """

    def __init__(self, node_id: str | None, remark: str = "") -> None:
        self._node_id = node_id
        self._remark = remark
        self._live_run: LiveRun | None = None
        self._run: Callable[[], Run | None] = lambda: None
        self._last_sent = 0.0

    def evaluated(self, run: Run, evaluation: Observation) -> None:
        subscriber = current_subscriber()
        if self._node_id is None or subscriber is None:
            return
        now = time.monotonic()
        if self._live_run is None or self._run() is not run:
            self._live_run, self._run = LiveRun(self._node_id, current_origin(self._node_id)), weakref.ref(run)
        elif now - self._last_sent < subscriber.interval:
            return
        self._last_sent = now
        client, live_run = subscriber.client, self._live_run
        _WORKER.add(lambda: self._send(client, live_run, run, evaluation))

    def finished(self, run: Run, status: str) -> None:
        """Send how the run ended, and the frames that were skipped, so that every step can be viewed."""
        live_run, self._live_run = self._live_run, None
        if self._node_id is None:
            return
        if live_run is None or self._run() is not run:
            live_run = LiveRun(self._node_id, current_origin(self._node_id))
        ending = Ending.of(run, status + self._remark)
        if live_run.origin is not None:
            FINISHED_RUNS.add(live_run.id, run, ending, live_run.origin)
        client, subscriber = current_page(), current_subscriber()
        if client is not None:
            send(END, {**live_run.address(), **asdict(ending)}, client)
        if subscriber is not None:
            _WORKER.add(lambda: self._send_skipped(subscriber.client, live_run, run))

    def _send_skipped(self, client: str, live_run: LiveRun, run: Run) -> None:
        for evaluation in shown_evaluations(run):
            if evaluation.index not in live_run.sent:
                self._send(client, live_run, run, evaluation)

    def _send(self, client: str, live_run: LiveRun, run: Run, evaluation: Observation | Evaluation) -> None:
        frame = frame_of(run, evaluation.read())
        live_run.sent.add(evaluation.index)
        send(FRAME, {**live_run.address(), **frame}, client)
