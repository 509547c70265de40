"""What a host's evaluations cost: the seconds of each and of the layers that S-CFG watches, or the bytes that are
alive in it and after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from .clock import seconds
from .memory import LiveBytes


class Meter:
    """Is told of every evaluation, and counts its time or its memory."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.inside: list[float] = []
        self._memory: LiveBytes | None = None
        self._peaks: list[int] = []
        self._kept: list[int] = []

    def restart(self) -> None:
        self.times, self.inside, self._peaks, self._kept = [], [], [], []

    def listen(self, modules: Iterable[nn.Module]) -> None:
        """Count the processor seconds inside these modules too, as `inside`."""

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self.inside[-1] += time.process_time() - begun.pop()

        begun: list[float] = []
        for module in modules:
            module.register_forward_pre_hook(lambda *_: begun.append(time.process_time()))
            module.register_forward_hook(leave)

    def __call__(self, evaluation: Callable[[], Tensor]) -> Tensor:
        results: list[Tensor] = []
        self.inside.append(0.0)
        if self._memory is not None:
            self._kept.append(self._memory.live)
            self._memory.restart()
            results.append(evaluation())
            self._peaks.append(self._memory.peak)
            return results[0]
        self.times.append(seconds(lambda: results.append(evaluation()), "cpu"))
        return results[0]

    def memory(self, host: Any, side: int, variant: str) -> tuple[int, int]:
        """Peak bytes of an evaluation above the model, and bytes alive before the second one that were not
        before the first.
        """
        self.restart()
        with LiveBytes(hollow=True) as self._memory:
            host.sample(variant, side, 2)
        self._memory = None
        return max(self._peaks), self._kept[1] - self._kept[0]
