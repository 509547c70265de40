"""The last finished runs of every node, so that a page can show the run behind a cached image.

The host keeps the outputs of earlier prompts: after a page was reloaded, or a seed set back, a prompt can end
without sampling. The run that made its image is the one whose sampler computed the same as a node of this prompt.
"""

import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

from ..scfg_core.run.record import Run
from .queue import Origin, QueuedPrompt

KEPT_RUNS = 16
"""Of a node. The records themselves are kept by its trace, which keeps fewer."""
KEPT_NODES = 32


@dataclass(frozen=True)
class Ending:
    """How a run ended, as a page is told: its status, whether S-CFG was active, and if not, what to do about it."""

    status: str
    active: bool
    remedy: str

    @classmethod
    def of(cls, run: Run, status: str) -> "Ending":
        return cls(status, bool(run.evaluations), " ".join(run.remedies()))


@dataclass(frozen=True)
class FinishedRun:
    """What is known of a run after its end.

    id      of the run, for pages.
    record  returns the run, or None once no trace keeps it.
    """

    id: str
    record: Callable[[], Run | None]
    ending: Ending
    origin: Origin


class FinishedRuns:
    """The last finished runs, by node id. Runs end on sampling threads, pages ask on others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, deque[FinishedRun]] = OrderedDict()

    def add(self, id: str, run: Run, ending: Ending, origin: Origin) -> None:
        finished = FinishedRun(id, weakref.ref(run), ending, origin)
        with self._lock:
            runs = self._runs.pop(origin.node, None) or deque(maxlen=KEPT_RUNS)
            self._runs[origin.node] = runs
            runs.append(finished)
            while len(self._runs) > KEPT_NODES:
                self._runs.popitem(last=False)

    def behind(self, prompt: QueuedPrompt) -> dict[str, FinishedRun | None]:
        """For every node of the prompt that ever ran: the newest run whose output this prompt has or reuses. Those
        whose images it leaves as they are have no entry.
        """
        with self._lock:
            nodes = {node: list(runs) for node, runs in self._runs.items() if node in prompt.nodes}
        found: dict[str, FinishedRun | None] = {}
        for node, runs in nodes.items():
            if prompt.leaves_alone(node):
                continue
            wanted = prompt.signatures(through=node)
            found[node] = next((run for run in reversed(runs) if run.origin.signature in wanted), None)
        return found


FINISHED_RUNS = FinishedRuns()
