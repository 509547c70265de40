"""The noise level of an evaluation, and what a model's prediction means there.

    x = a·x0 + s·ε,   a = signal, s = noise
    v = a·ε − s·x0 (v-prediction),   u = ε − x0 (flow matching, where a + s = 1)

S-CFG compares the predictions of two prompts at the same x, so only the size of ε matters to it: the ratio is the
same in every term, and the recorded norms are in ε units.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import ScfgError

Prediction = Literal["epsilon", "v_prediction", "sample", "flow_prediction"]
"""What the model predicts: ε, v, x0 or u; diffusers' names."""

SMALLEST = 1e-8


@dataclass(frozen=True)
class NoiseLevel:
    """One noise level; `signal` and `noise` are numbers, or tensors that broadcast against x.

    Raises `ScfgError` for an unknown prediction.
    """

    signal: float | Tensor
    noise: float | Tensor
    prediction: Prediction = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction not in get_args(Prediction):
            raise ScfgError(
                f"expected a prediction of {', '.join(get_args(Prediction))}, got {self.prediction!r}: "
                "use a model of such a kind"
            )

    @property
    def sigma(self) -> float | Tensor:
        """s/a: the noise level of the variance-exploding form."""
        return self.noise / _positive(self.signal)

    @property
    def epsilon_unit(self) -> float | Tensor:
        """Factor that turns the difference of two predictions at one x into that of their ε, up to its sign."""
        if self.prediction == "epsilon":
            return 1.0
        if self.prediction == "sample":
            return self.signal / _positive(self.noise)
        return self.signal / self._total

    def epsilon(self, x: Tensor, predicted: Tensor) -> Tensor:
        """ε of a prediction, given the x (B, C, …) that went into the model."""
        return self.undivided_epsilon(x, predicted) / self.epsilon_divisor

    def undivided_epsilon(self, x: Tensor, predicted: Tensor) -> Tensor:
        """ε times `epsilon_divisor`."""
        if self.prediction == "epsilon":
            return predicted
        if self.prediction == "sample":
            return _plus(x, predicted, -self.signal)
        if self.prediction == "v_prediction":
            return _plus(self.noise * x, predicted, self.signal)
        return _plus(x, predicted, self.signal)

    @property
    def epsilon_divisor(self) -> float | Tensor:
        if self.prediction == "epsilon":
            return 1.0
        return _positive(self.noise) if self.prediction == "sample" else self._total

    def clean(self, x: Tensor, predicted: Tensor) -> Tensor:
        """x0 of a prediction, given the x (B, C, …) that went into the model."""
        if self.prediction == "epsilon":
            return (x - self.noise * predicted) / _positive(self.signal)
        if self.prediction == "sample":
            return predicted
        if self.prediction == "v_prediction":
            return (self.signal * x - self.noise * predicted) / self._total
        return (x - self.noise * predicted) / self._total

    @property
    def _total(self) -> float | Tensor:
        """Determinant of (x, prediction) in terms of (x0, ε): a² + s² for v, a + s for flow; 1 as a rule."""
        if self.prediction == "v_prediction":
            return _positive(self.signal * self.signal + self.noise * self.noise)
        return _positive(self.signal + self.noise)


def _plus(x: Tensor, predicted: Tensor, factor: float | Tensor) -> Tensor:
    """x + factor·predicted."""
    return x + factor * predicted if isinstance(factor, Tensor) else torch.add(x, predicted, alpha=factor)


def _positive(value: float | Tensor) -> float | Tensor:
    """The value, kept away from 0: schedules begin or end at exactly no signal, or no noise."""
    return value.clamp(min=SMALLEST) if isinstance(value, torch.Tensor) else max(value, SMALLEST)
