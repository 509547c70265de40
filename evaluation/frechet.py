"""Fréchet distance of images in the features of a network (Heusel et al., arXiv 1706.08500).

    d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½),   tr (Σ₁Σ₂)^½ = tr (Σ₁^½ Σ₂ Σ₁^½)^½

It grows as images get fewer, so only distances over equally many images are compared; the intervals resample
prompts, all images of a prompt together, and a difference of two arms resamples the same prompts of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .statistics import Figure
from .store import Pixels, write_whole

Extractor = Callable[[Sequence[Pixels]], Tensor]
"""Images (h, w, 3) uint8 → features (N, D); NaN in a row whose image has nothing of the kind."""


@dataclass(frozen=True)
class Reference:
    """Real images' features as a normal distribution: mean (D,), square root (D, D) and trace of the covariance."""

    mean: Tensor
    root: Tensor
    trace: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Reference:
        """From features (N, D), N ≥ 2; rows of NaN are left out."""
        mean, covariance = _moments(features)
        values, vectors = torch.linalg.eigh(covariance)
        root = vectors * values.clamp(min=0).sqrt() @ vectors.mT
        return cls(mean, root, covariance.trace())

    def distance(self, features: Tensor) -> float:
        """d² of features (M, D); rows of NaN are left out, and d² is NaN where fewer than two are left."""
        mean, covariance = _moments(features)
        if covariance.isnan().any():
            return math.nan
        common = torch.linalg.eigvalsh(self.root @ covariance @ self.root).clamp(min=0).sqrt().sum()
        return float((self.mean - mean).square().sum() + self.trace + covariance.trace() - 2 * common)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    present = features[~features.isnan().any(dim=1)].double()
    mean = present.mean(dim=0)
    centred = present - mean
    return mean, centred.mT @ centred / (len(present) - 1 if len(present) > 1 else math.nan)


def resampled(real: Reference, features: Tensor, rounds: int) -> np.ndarray:
    """The distance of features (prompts, images of a prompt, D), then those of `rounds` resamplings of the prompts.

    Equally many prompts are resampled alike, so the differences of two arms are paired.
    """
    rng, count = np.random.default_rng(0), len(features)
    chosen = [np.arange(count), *(rng.integers(count, size=count) for _ in range(rounds))]
    return np.array([real.distance(features[torch.as_tensor(rows)].flatten(0, 1)) for rows in chosen])


def figure(values: np.ndarray, count: int) -> Figure:
    """The first value, and the spread of the resampled ones around it; a resample repeats prompts, so it lies
    above: the interval is shifted back by the mean excess."""
    if len(values) == 1 or np.isnan(values).all():
        return Figure(float(values[0]), float("nan"), float("nan"), count)
    low, high = np.nanquantile(values[1:], (0.025, 0.975)) - np.nanmean(values[1:]) + values[0]
    return Figure(float(values[0]), float(low), float(high), count)


def kept_features(path: Path, extract: Extractor, images: Iterable[Pixels], count: int, batch: int = 64) -> Tensor:
    """Features (count, D) of these images, from `path` where it has that many, else computed and kept there."""
    if path.exists() and len(kept := np.load(path)) == count:
        return torch.from_numpy(kept)
    parts: list[Tensor] = []
    waiting: list[Pixels] = []
    for image in images:
        waiting.append(image)
        if len(waiting) == batch:
            parts.append(extract(waiting).float().cpu())
            waiting = []
    if waiting:
        parts.append(extract(waiting).float().cpu())
    features = torch.cat(parts)
    write_whole(path, _npy(features))
    return features


def _npy(features: Tensor) -> bytes:
    buffer = BytesIO()
    np.save(buffer, features.numpy())
    return buffer.getvalue()
