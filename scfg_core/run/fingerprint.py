"""Which latent a run returned, so that a result finds the run that made it."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fingerprint:
    """Identifies a latent, also after a change of device or dtype: its shape and 256 of its values."""

    shape: tuple[int, ...]
    values: Tensor

    @classmethod
    def of(cls, latent: Tensor) -> "Fingerprint":
        flat = latent.detach().flatten()
        count = min(256, flat.numel())
        places = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(1, count - 1)
        return cls(tuple(latent.shape), flat[places].float().cpu())

    def matches(self, other: "Fingerprint") -> bool:
        """Whether both are the same latent, up to the rounding of a half-precision copy."""
        if self.shape != other.shape:
            return False
        tolerance = 0.01 * float(self.values.nan_to_num(0, 0, 0).std(correction=0)) + 1e-6
        return torch.allclose(self.values, other.values, rtol=0.01, atol=tolerance, equal_nan=True)
