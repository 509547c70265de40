"""Parts of ComfyUI's schedule, by percent as its nodes give them, and whether an evaluation is within one."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

Part = tuple[float, float]

WHOLE: Part = (0.0, 1.0)


class Parts:
    """The parts, start to end, 0…1 each, in which something is to act during one run.

    The noise level is read off the device once at the beginning of an evaluation, and only where a part is not the
    whole schedule.
    """

    def __init__(self, patcher: Any, parts: Iterable[Part]) -> None:
        self._levels = {part: _levels(patcher, part) for part in set(parts) - {WHOLE}}
        self._sigma = 0.0

    def begin(self, sigma: Tensor) -> None:
        """An evaluation at this noise level begins."""
        if self._levels:
            self._sigma = float(sigma.flatten()[0])

    def within(self, start: float, end: float) -> bool:
        """Whether the evaluation is within a part; ends belong to it."""
        if (start, end) == WHOLE:
            return True
        highest, lowest = self._levels[start, end]
        return lowest <= self._sigma <= highest


def _levels(patcher: Any, part: Part) -> tuple[float, float]:
    """Its highest and lowest noise level."""
    sampling = patcher.get_model_object("model_sampling")
    start, end = (float(sampling.percent_to_sigma(percent)) for percent in part)
    return start, end
