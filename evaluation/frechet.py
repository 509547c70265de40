"""Fréchet distance of pictures in the features of a network (Heusel et al., arXiv 1706.08500), by torchmetrics.

    d² = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½)

It grows as pictures get fewer, so only distances over equally many pictures are compared; the intervals resample
prompts, all pictures of a prompt together, and a difference of two arms resamples the same prompts of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from .statistics import Figure
from .store import Pixels, write_whole

Extractor = Callable[[Sequence[Pixels]], Tensor]
"""Pictures (h, w, 3) uint8 → features (N, D)."""


class _Given(nn.Module):
    """Features that were computed before."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(one: Tensor, other: Tensor) -> float:
    """d² of two sets of features (N, D) and (M, D); N, M ≥ 2."""
    metric = FrechetInceptionDistance(feature=_Given(one.shape[1]), normalize=False).set_dtype(torch.float64)
    metric.update(one.double(), real=True)
    metric.update(other.double(), real=False)
    return float(metric.compute())


def distances(
    real: Tensor, arms: Mapping[str, Tensor], reference: str, rounds: int = 200
) -> dict[str, tuple[Figure, Figure]]:
    """Per arm its distance to the real pictures, and that minus the reference's.

    arms: features (prompts, pictures of a prompt, D), the same prompts in every arm. `rounds` of 0: no intervals.
    """
    rng, count = np.random.default_rng(0), len(arms[reference])
    chosen = [np.arange(count), *(rng.integers(count, size=count) for _ in range(rounds))]
    found = {
        name: np.array([frechet_distance(real, features[torch.as_tensor(rows)].flatten(0, 1)) for rows in chosen])
        for name, features in arms.items()
    }
    return {
        name: (_figure(values, count), _figure(values - found[reference], count)) for name, values in found.items()
    }


def _figure(values: np.ndarray, count: int) -> Figure:
    """The first value, and the spread of the resampled ones around it; a resample repeats prompts, so it lies
    above: the interval is shifted back by the mean excess."""
    if len(values) == 1:
        return Figure(float(values[0]), float("nan"), float("nan"), count)
    low, high = np.quantile(values[1:], (0.025, 0.975)) - values[1:].mean() + values[0]
    return Figure(float(values[0]), float(low), float(high), count)


def kept_features(path: Path, extract: Extractor, images: Iterable[Pixels], count: int, batch: int = 64) -> Tensor:
    """Features (count, D) of these pictures, from `path` where it has that many, else computed and kept there."""
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
