"""A diffusers scheduler's noise levels, read once for a sampling, so that no step of it waits for the device.

Diffusion (`Schedule`): x is what goes into the U-Net, a·x0 + s·ε with a² = ᾱ_t, s² = 1 − ᾱ_t. Schedulers that
count in σ (Euler, Heun, …) keep x0 + σ·ε and scale it to this form in `scale_model_input`, so one form serves all
that have `alphas_cumprod`.

Flow matching (`FlowSchedule`): x is (1 − σ)·x0 + σ·ε; which of the scheduler's levels it has, its own counter says.
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

    timesteps: Tensor | None
    config: Config


class Levels(Protocol):
    """The noise levels of one sampling; `time` falls from the first step to the last, in a unit of its own."""

    def belongs_to(self, scheduler: Scheduler) -> bool:
        """Whether the scheduler still has these levels: each `set_timesteps` begins another sampling."""
        ...

    def time_of(self, timestep: Timestep, scheduler: Scheduler) -> float:
        """When a call is made, before the scheduler steps on."""
        ...

    def level(self, time: float) -> NoiseLevel: ...

    def sigma(self, time: float) -> float:
        """The level's number, as `sigmas` has it."""
        ...

    def progress(self, time: float) -> float:
        """0…1 of the schedule; the same place as ComfyUI's "percent"."""
        ...

    def sigmas(self) -> tuple[float, ...]:
        """The levels of the steps, from the highest to 0; one that is evaluated twice (Heun, PNDM) is one."""
        ...


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
        alphas: Tensor = scheduler.alphas_cumprod  # type: ignore[attr-defined]
        return cls(timesteps, times, tuple(alphas.tolist()), prediction)

    def belongs_to(self, scheduler: Scheduler) -> bool:
        return scheduler.timesteps is self.timesteps

    def time_of(self, timestep: Timestep, scheduler: Scheduler | None = None) -> float:
        """A call's timestep as a number; read off the device only where it is not an element of the schedule."""
        if not isinstance(timestep, Tensor):
            return float(timestep)
        first = timestep.reshape(-1)[0]
        place = _place(first, self.timesteps)
        return float(first) if place is None else self.times[place]

    def sigma(self, time: float) -> float:
        return float(self.level(time).sigma)

    def level(self, time: float) -> NoiseLevel:
        """The level of a timestep; ᾱ is linear between two training steps."""
        last = len(self.alphas) - 1
        inside = min(max(time, 0.0), float(last))
        below = min(int(inside), last - 1)
        low, high = self.alphas[below : below + 2]
        alpha = low + (inside - below) * (high - low)
        return NoiseLevel(math.sqrt(alpha), math.sqrt(1 - alpha), self.prediction)

    def progress(self, time: float) -> float:
        """1 − t/(T − 1)."""
        last = len(self.alphas) - 1
        return 1 - min(max(time, 0.0), float(last)) / last

    def sigmas(self) -> tuple[float, ...]:
        return (*(self.sigma(time) for time in dict.fromkeys(self.times)), 0.0)


@dataclass(frozen=True)
class FlowSchedule:
    """The levels of a flow-matching scheduler; `time` is the number of steps that are left."""

    timesteps: Tensor | None
    steps: int
    values: tuple[float, ...]

    @classmethod
    def of(cls, scheduler: Scheduler) -> "FlowSchedule":
        """The present schedule. Raises `ScfgError` for a scheduler of another kind."""
        sigmas: Tensor | None = getattr(scheduler, "sigmas", None)
        flow = not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("use_flow_sigmas", False)
        if sigmas is None or not flow or not hasattr(scheduler, "step_index"):
            raise ScfgError(
                "expected a scheduler of flow matching, which this model is trained for, as "
                f"FlowMatchEulerDiscreteScheduler, got {type(scheduler).__name__}: sample with one of those"
            )
        timesteps = scheduler.timesteps
        steps = len(sigmas) if timesteps is None else len(timesteps)
        return cls(timesteps, steps, tuple(float(sigma) for sigma in sigmas.tolist()))

    def belongs_to(self, scheduler: Scheduler) -> bool:
        return scheduler.timesteps is self.timesteps

    def time_of(self, timestep: Timestep, scheduler: Scheduler) -> float:
        """By the scheduler's counter, which it has from its first step on; before, by where it shall begin, or by
        the timestep where that is an element of the schedule. Nothing is read off the device."""
        index = getattr(scheduler, "step_index", None)
        if index is None:
            index = getattr(scheduler, "begin_index", None)
        if index is None and isinstance(timestep, Tensor):
            index = _place(timestep.reshape(-1)[0], self.timesteps)
        return float(self.steps - (index or 0))

    def level(self, time: float) -> NoiseLevel:
        sigma = self.sigma(time)
        return NoiseLevel(1 - sigma, sigma, "flow_prediction")

    def sigma(self, time: float) -> float:
        return self.values[min(max(0, self.steps - int(time)), len(self.values) - 1)]

    def progress(self, time: float) -> float:
        """The part of the steps that is done."""
        return 1 - time / max(1, self.steps)

    def sigmas(self) -> tuple[float, ...]:
        levels = tuple(dict.fromkeys(self.values[: self.steps]))
        return levels if levels[-1] == 0 else (*levels, 0.0)


def _place(element: Tensor, steps: Tensor | None) -> int | None:
    """Where this element is a view into the schedule's tensor: its index."""
    if not isinstance(steps, Tensor) or (element.dtype, element.device) != (steps.dtype, steps.device):
        return None
    if element.untyped_storage().data_ptr() != steps.untyped_storage().data_ptr():
        return None
    place, rest = divmod(int(element.storage_offset() - steps.storage_offset()), max(1, steps.stride(0)))
    return place if rest == 0 and 0 <= place < len(steps) else None
