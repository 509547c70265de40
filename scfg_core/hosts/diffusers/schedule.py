"""A diffusers scheduler's noise levels, read once for a sampling, so that no step of it waits for the device.

x is what goes into the U-Net, a·x0 + s·ε with a² = ᾱ_t, s² = 1 − ᾱ_t. Schedulers that count in σ (Euler, Heun, …)
keep x0 + σ·ε and scale it to this form in `scale_model_input`, so one form serves all that have `alphas_cumprod`.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ...errors import ScfgError
from ...run.noise import NoiseLevel, Prediction

Timestep = Tensor | float | int
PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")


class Config(Protocol):
    """A scheduler's configuration, read like a dict."""

    def get(self, key: str, default: object = None, /) -> object: ...


class Scheduler(Protocol):
    """What S-CFG reads of a diffusers scheduler."""

    alphas_cumprod: Tensor
    timesteps: Tensor | None
    config: Config


@dataclass(frozen=True)
class Schedule:
    """The levels of a scheduler.

    timesteps  the scheduler's own tensor (None before `set_timesteps` in some), by which a step's timestep is
               recognised; `times` are its values.
    alphas     ᾱ of every training step.
    """

    timesteps: Tensor | None
    times: tuple[float, ...]
    alphas: tuple[float, ...]
    prediction: Prediction

    @classmethod
    def of(cls, scheduler: Scheduler) -> "Schedule":
        """The present schedule. Raises `ScfgError` for a scheduler of an unknown form."""
        if not (hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "timesteps")):
            raise ScfgError(
                "expected a scheduler with alphas_cumprod, as DDIM, DDPM, Euler and the DPM-Solvers have them, "
                f"got {type(scheduler).__name__}: sample with one of those"
            )
        named = scheduler.config.get("prediction_type", "epsilon")
        prediction: Prediction | None = next((known for known in PREDICTIONS if known == named), None)
        if prediction is None:
            raise ScfgError(f"expected a prediction of {', '.join(PREDICTIONS)}, got {named!r}: use such a model")
        timesteps = scheduler.timesteps
        times = () if timesteps is None else tuple(float(t) for t in timesteps.tolist())
        return cls(timesteps, times, tuple(scheduler.alphas_cumprod.tolist()), prediction)

    def belongs_to(self, scheduler: Scheduler) -> bool:
        """Whether the scheduler still has these timesteps: each `set_timesteps` begins another sampling."""
        return scheduler.timesteps is self.timesteps

    def time_of(self, timestep: Timestep) -> float:
        """A call's timestep as a number; read off the device only where it is not an element of the schedule."""
        if not isinstance(timestep, Tensor):
            return float(timestep)
        first = timestep.reshape(-1)[0]
        place = self._place(first)
        return float(first) if place is None else self.times[place]

    def _place(self, element: Tensor) -> int | None:
        """Where this element is a view into the schedule's tensor: its index."""
        steps = self.timesteps
        if not isinstance(steps, Tensor) or (element.dtype, element.device) != (steps.dtype, steps.device):
            return None
        if element.untyped_storage().data_ptr() != steps.untyped_storage().data_ptr():
            return None
        place, rest = divmod(int(element.storage_offset() - steps.storage_offset()), max(1, steps.stride(0)))
        return place if rest == 0 and 0 <= place < len(steps) else None

    def level(self, time: float) -> NoiseLevel:
        """The level of a timestep; ᾱ is linear between two training steps."""
        last = len(self.alphas) - 1
        inside = min(max(time, 0.0), float(last))
        below = min(int(inside), last - 1)
        low, high = self.alphas[below : below + 2]
        alpha = low + (inside - below) * (high - low)
        return NoiseLevel(math.sqrt(alpha), math.sqrt(1 - alpha), self.prediction)

    def progress(self, time: float) -> float:
        """0…1 of the schedule, 1 − t/(T − 1); the same place as ComfyUI's "percent"."""
        last = len(self.alphas) - 1
        return 1 - min(max(time, 0.0), float(last)) / last

    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the steps, from the highest to 0; a level that is evaluated twice (Heun, PNDM) is one."""
        return (*(float(self.level(time).sigma) for time in dict.fromkeys(self.times)), 0.0)
