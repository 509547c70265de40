"""The live view: while a model samples, its regions and scales go to the page that queued the prompt.

The sampling thread only looks at the clock and leaves an evaluation in a short queue; one worker thread copies it
off the device, packs it and sends it. A full queue drops its oldest frame. Nothing is done for a client that did
not ask for it, has left, or is not there at all.
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

from ..scfg_core.run.record import Evaluation, Run
from ..views.segmentation import spread_out
from .frames import frame_of
from .subscribers import current_graph, current_subscriber, send

EVENT = "scfg.step"
QUEUED = 4
MOST_FRAMES = 48
"""Frames of a run that the page has at its end."""


@dataclass
class Course:
    """A run on its way to the page.

    number  among the runs of this process; graph: id of the workflow that was queued, where a page queued it.
    sent    indices of the evaluations that the page has.
    """

    number: int
    graph: str | None
    sent: set[int] = field(default_factory=set)


class Worker:
    """One thread that does jobs in order, and forgets the oldest of more than `QUEUED` waiting ones."""

    def __init__(self) -> None:
        self._jobs: deque[Callable[[], None]] = deque(maxlen=QUEUED)
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
                logging.exception("S-CFG live view: a frame could not be shown")
            del job


_WORKER = Worker()
_NUMBERS = itertools.count(1)


class LiveView:
    """A listener that shows the runs of one node; see `scfg_core.hosts.comfyui.attach.Listener`."""

    def __init__(self, node_id: str | None) -> None:
        self._node_id = node_id
        self._course: Course | None = None
        self._run: Callable[[], Run | None] = lambda: None
        self._shown = 0.0

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        subscriber = current_subscriber() if self._node_id is not None else None
        if subscriber is None:
            return
        now = time.monotonic()
        if self._course is None or self._run() is not run:
            self._course, self._run = Course(next(_NUMBERS), current_graph()), weakref.ref(run)
        elif now - self._shown < subscriber.interval:
            return
        self._shown = now
        client, course = subscriber.client, self._course
        _WORKER.add(lambda: self._show(client, course, run, evaluation))

    def finished(self, run: Run, status: str) -> None:
        """Send what the throttle or the queue left out, so that every step can be looked at."""
        course, self._course = self._course, None
        subscriber = current_subscriber()
        if course is not None and subscriber is not None and self._run() is run:
            client = subscriber.client
            _WORKER.add(lambda: self._complete(client, course, run))

    def _complete(self, client: str, course: Course, run: Run) -> None:
        for place in spread_out(len(run.evaluations), MOST_FRAMES):
            evaluation = run.evaluations[place]
            if evaluation.index not in course.sent:
                self._show(client, course, run, evaluation)

    def _show(self, client: str, course: Course, run: Run, evaluation: Evaluation) -> None:
        frame: dict[str, Any] = frame_of(run, evaluation.read())
        course.sent.add(evaluation.index)
        send(EVENT, {"node": self._node_id, "graph": course.graph, "run": course.number, **frame}, client)
