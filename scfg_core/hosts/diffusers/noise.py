"""What a diffusers scheduler says about a noise level: its σ, its place in the schedule, and prediction terms.

x = a·x0 + s·ε,   a² = ᾱ_t,   s² = 1 − ᾱ_t;   a U-Net predicts ε, or v = a·ε − s·x0, or x0 ("sample")

x is what goes into the U-Net. Schedulers that count in σ (Euler, Heun, …) keep x0 + σ·ε and scale it to this form
in `scale_model_input`, so one form serves all that have `alphas_cumprod`.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...errors import ScfgError, expect

SMALLEST = 1e-8
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class NoiseLevel:
    """The level of one timestep: `signal` a, `noise` s, and what the U-Net predicts there.

    progress    0…1 of the schedule, 1 − t/(T − 1); the same place as ComfyUI's "percent".
    prediction  "epsilon", "v_prediction" or "sample".
    """

    progress: float
    signal: float
    noise: float
    prediction: str

    @property
    def sigma(self) -> float:
        """s/a: the noise level as k-diffusion counts it."""
        return self.noise / max(self.signal, SMALLEST)

    @property
    def epsilon_unit(self) -> float:
        """What brings the difference of two predictions to the size of ε's."""
        if self.prediction == "v_prediction":
            return self.signal
        if self.prediction == "sample":
            return self.signal / max(self.noise, SMALLEST)
        return 1.0

    def epsilon(self, sample: Tensor, predicted: Tensor) -> Tensor:
        """ε of a prediction, given the x that went into the U-Net."""
        if self.prediction == "v_prediction":
            return self.signal * predicted + self.noise * sample
        if self.prediction == "sample":
            return (sample - self.signal * predicted) / max(self.noise, SMALLEST)
        return predicted

    def clean(self, sample: Tensor, predicted: Tensor) -> Tensor:
        """x0 of a prediction, given the x that went into the U-Net."""
        if self.prediction == "v_prediction":
            return self.signal * sample - self.noise * predicted
        if self.prediction == "sample":
            return predicted
        return (sample - self.noise * predicted) / max(self.signal, SMALLEST)


@dataclass(frozen=True)
class Schedule:
    """A scheduler's levels, read once for a sampling, so that no step of it waits for the device.

    timesteps  the scheduler's own tensor (None before `set_timesteps` in some), by which a step's timestep is
               recognised; `times` are its values.
    alphas     ᾱ of every training step.
    """

    timesteps: Tensor | None
    times: tuple[float, ...]
    alphas: tuple[float, ...]
    prediction: str

    @classmethod
    def of(cls, scheduler: Any) -> "Schedule":
        """The schedule as it stands. Raises `ScfgError` where it is none of a known form."""
        known = hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler, "timesteps")
        expect(
            known,
            ScfgError,
            "a scheduler with alphas_cumprod, as DDIM, DDPM, Euler and the DPM-Solvers have them",
            type(scheduler).__name__,
            "sample with one of those",
        )
        prediction = scheduler.config.get("prediction_type", "epsilon")
        expect(
            prediction in PREDICTIONS, ScfgError, f"a prediction of {PREDICTIONS}", prediction, "use such a model"
        )
        timesteps = scheduler.timesteps
        times = () if timesteps is None else tuple(float(t) for t in timesteps.tolist())
        return cls(timesteps, times, tuple(scheduler.alphas_cumprod.tolist()), prediction)

    def belongs_to(self, scheduler: Any) -> bool:
        """Whether the scheduler still has these timesteps: each `set_timesteps` begins another sampling."""
        return scheduler.timesteps is self.timesteps

    def time_of(self, timestep: Any) -> float:
        """A call's timestep as a number; read off the device only where it is none of the schedule's own."""
        if not isinstance(timestep, Tensor):
            return float(timestep)
        first = timestep.reshape(-1)[0]
        place = self._place(first)
        return float(first) if place is None else self.times[place]

    def _place(self, element: Tensor) -> int | None:
        """Where this element is a view into the schedule's tensor: its index."""
        own = self.timesteps
        if not isinstance(own, Tensor) or (element.dtype, element.device) != (own.dtype, own.device):
            return None
        if element.untyped_storage().data_ptr() != own.untyped_storage().data_ptr():
            return None
        place, rest = divmod(int(element.storage_offset() - own.storage_offset()), max(1, own.stride(0)))
        return place if rest == 0 and 0 <= place < len(own) else None

    def level(self, time: float) -> NoiseLevel:
        """The level of a timestep; ᾱ is linear between two of those in training."""
        last = len(self.alphas) - 1
        inside = min(max(time, 0.0), float(last))
        below = min(int(inside), last - 1)
        low, high = self.alphas[below : below + 2]
        alpha = low + (inside - below) * (high - low)
        return NoiseLevel(1 - inside / last, math.sqrt(alpha), math.sqrt(1 - alpha), self.prediction)

    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the steps, from the highest to 0; a level that is evaluated twice (Heun, PNDM) is one."""
        return (*(self.level(time).sigma for time in dict.fromkeys(self.times)), 0.0)


def noise_level(scheduler: Any, timestep: float) -> NoiseLevel:
    """The level of `timestep`, which may lie between two of those in training."""
    return Schedule.of(scheduler).level(timestep)
