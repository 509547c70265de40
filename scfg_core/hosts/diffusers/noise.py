"""What a diffusers scheduler says about one noise level: its σ, its place in the schedule, and prediction terms.

x = a·x0 + s·ε,   a² = ᾱ_t,   s² = 1 − ᾱ_t;   a U-Net predicts ε, or v = a·ε − s·x0, or x0 ("sample")
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

SMALLEST = 1e-8


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


def noise_level(scheduler: Any, timestep: float) -> NoiseLevel:
    """The level of `timestep`, which may lie between two of those in training."""
    steps: int = scheduler.config.num_train_timesteps
    nearest = min(max(round(timestep), 0), steps - 1)
    alpha = float(scheduler.alphas_cumprod[nearest])
    progress = min(max(1 - timestep / (steps - 1), 0.0), 1.0)
    prediction = scheduler.config.get("prediction_type", "epsilon")
    return NoiseLevel(progress, math.sqrt(alpha), math.sqrt(1 - alpha), prediction)
