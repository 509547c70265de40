"""Means with their 95 % intervals, and paired comparisons of two arms over the same prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest


@dataclass(frozen=True)
class Figure:
    """A measured mean with its 95 % interval, and the number of pictures behind it; of none there is no mean."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.n else "–"

    @property
    def signed(self) -> str:
        """As a difference."""
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]" if self.n else "–"


NOTHING = Figure(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Comparison:
    """A paired difference, the prompts that became better and worse, and the two-sided p of their sign test."""

    difference: Figure
    better: int
    worse: int
    p: float

    def __str__(self) -> str:
        if not self.difference.n:
            return "–"
        return f"{self.difference.signed}; {self.better} / {self.worse}, p {self.p:.2g}"


def share(right: Sequence[Sequence[bool]]) -> Figure:
    """Share of right answers, grouped by picture. Bootstrap over pictures; Wilson's interval if all agree."""
    answers = [bool(answer) for group in right for answer in group]
    if not answers:
        return NOTHING
    if 0 < sum(answers) < len(answers):
        return mean_of_groups([[float(answer) for answer in group] for group in right])
    wilson = binomtest(sum(answers), len(answers)).proportion_ci(method="wilson")
    return Figure(sum(answers) / len(answers), wilson.low, wilson.high, len(right))


def mean_of_groups(groups: Sequence[Sequence[float]], rounds: int = 2000) -> Figure:
    """Mean over all values; the interval resamples whole groups (pictures) with replacement."""
    if not any(len(group) for group in groups):
        return NOTHING
    sums, counts = np.array([sum(group) for group in groups]), np.array([len(group) for group in groups])
    rows = np.random.default_rng(0).integers(len(groups), size=(rounds, len(groups)))
    means = sums[rows].sum(1) / np.maximum(counts[rows].sum(1), 1)
    low, high = np.quantile(means, (0.025, 0.975))
    return Figure(float(sums.sum() / counts.sum()), float(low), float(high), len(groups))


def compare(ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> Comparison:
    """Ours minus theirs over the same pictures, each with its group of values (answers, or one score)."""
    gains = [[a - b for a, b in zip(one, other, strict=True)] for one, other in zip(ours, theirs, strict=True)]
    better, worse = sum(sum(gain) > 0 for gain in gains), sum(sum(gain) < 0 for gain in gains)
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    return Comparison(mean_of_groups(gains), better, worse, float(p))
