"""The last few finished runs of a model."""

import threading
from collections import deque
from collections.abc import Callable

from .record import Run

KEPT_RUNS = 4


class Trace:
    """The last finished runs of one model; several samplers may share it, from several threads.

    It never hands out a run that is under way.
    """

    def __init__(self, kept: int = KEPT_RUNS) -> None:
        self._lock = threading.Lock()
        self._runs: deque[Run] = deque(maxlen=kept)

    def add(self, run: Run) -> None:
        """Close a run and keep it."""
        run.close()
        with self._lock:
            self._runs.append(run)

    def runs(self) -> list[Run]:
        """Finished runs, oldest first."""
        with self._lock:
            return list(self._runs)

    def find(self, matches: Callable[[Run], bool]) -> Run | None:
        """The newest finished run for which `matches` holds."""
        return next((run for run in reversed(self.runs()) if matches(run)), None)
