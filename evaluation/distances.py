"""Fréchet distances of an experiment's arms, whole and by kind of region, each against CFG at γ and at its dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .experiment import UNGUIDED, Plan
from .frechet import Extractor, Reference, figure, kept_features, resampled
from .report import Row, between, markdown
from .statistics import Figure
from .store import Store

Cell = tuple[str, float]
ALL_SCALES = 0.0
"""Stands for the images of every guided γ together."""


@dataclass(frozen=True)
class Sight:
    """What looks at images. `columns`: which of its features belong to what kind of region; `real`: those of real
    images, (N, D)."""

    extract: Extractor
    real: Tensor
    columns: Mapping[str, slice]


@dataclass(frozen=True)
class Distance:
    """An arm's distance from real images over its first n prompts, and that minus CFG's at the same γ, and minus
    CFG's interpolated at the arm's mean γ·r; None where there is no such CFG."""

    kind: str
    arm: str
    scale: float
    n: int
    distance: Figure
    minus_cfg: Figure | None
    minus_dose: Figure | None


def features_of(store: Store, rows: Sequence[Row], extract: Extractor) -> dict[Cell, Tensor]:
    """Features (n, D) of every row's images, kept beside them so that nothing is looked at twice."""
    found = {}
    for row in tqdm(rows, desc="features", unit="cell"):
        path = store.folder / "features" / f"{row.arm} {row.scale:g}.npy"
        images = (store.image(row.arm, row.scale, index) for index in range(row.n))
        found[row.arm, row.scale] = kept_features(path, extract, images, row.n)
    return found


def measure_distances(store: Store, plan: Plan, rows: Sequence[Row], sight: Sight, rounds: int) -> list[Distance]:
    """Distances of every row, and of all its γ together; `rounds` of the bootstrap over prompts, 0 for none."""
    features = features_of(store, rows, sight.extract)
    doses = {(row.arm, row.scale): row.mean_scale for row in rows}
    groups = {cell: found[:, None] for cell, found in features.items()} | _pooled(plan, features)
    found: list[Distance] = []
    for kind, columns in sight.columns.items():
        real = Reference.of(sight.real[:, columns])
        found += _of_kind(kind, real, {cell: group[..., columns] for cell, group in groups.items()}, doses, rounds)
    return found


def _pooled(plan: Plan, features: Mapping[Cell, Tensor]) -> dict[Cell, Tensor]:
    """Features (n, γ, D) of the arms that drew every guided γ, over the prompts that all of these γ have."""
    scales = [scale for scale in plan.scales if scale > UNGUIDED]
    common = [scale for scale in scales if all((arm, scale) in features for arm in plan.arms)]
    if len(common) < 2:
        return {}
    count = {arm: min(len(features[arm, scale]) for scale in common) for arm in plan.arms}
    return {
        (arm, ALL_SCALES): torch.stack([features[arm, scale][: count[arm]] for scale in common], dim=1)
        for arm in plan.arms
    }


def _of_kind(
    kind: str, real: Reference, groups: Mapping[Cell, Tensor], doses: Mapping[Cell, float], rounds: int
) -> list[Distance]:
    counts = sorted({len(features) for features in groups.values()})
    cfg = {scale: features for (arm, scale), features in groups.items() if arm == "cfg"}
    work = {(cell, len(features)): features for cell, features in groups.items()}
    for scale, features in cfg.items():  # also over as few prompts as other arms have
        work |= {(("cfg", scale), count): features[:count] for count in counts if count <= len(features)}
    with ThreadPoolExecutor() as pool:
        values = dict(zip(work, pool.map(lambda found: resampled(real, found, rounds), work.values()), strict=True))
    found = []
    for (arm, scale), features in groups.items():
        n, ours = len(features), values[(arm, scale), len(features)]
        same = values.get((("cfg", scale), n))
        dose = _at_dose(doses.get((arm, scale)), n, values)
        found.append(
            Distance(
                kind,
                arm,
                scale,
                n,
                figure(ours, n),
                None if arm == "cfg" or same is None else figure(ours - same, n),
                None if arm == "cfg" or dose is None else figure(ours - dose, n),
            )
        )
    return found


def _at_dose(dose: float | None, n: int, values: Mapping[tuple[Cell, int], np.ndarray]) -> np.ndarray | None:
    """CFG's distance at a dose, from the two nearest γ that it was drawn at."""
    if dose is None:
        return None
    scales = [scale for (arm, scale), count in values if arm == "cfg" and count == n and scale != ALL_SCALES]
    place = between(dose, scales)
    if place is None:
        return None
    low, high, weight = place
    return (1 - weight) * values[("cfg", low), n] + weight * values[("cfg", high), n]


def distance_table(found: Sequence[Distance]) -> str:
    """As a Markdown table: a line per arm and γ, a column per kind of region."""
    kinds = list(dict.fromkeys(distance.kind for distance in found))
    by_cell: dict[tuple[float, str, int], dict[str, Distance]] = {}
    for distance in found:
        by_cell.setdefault((distance.scale, distance.arm, distance.n), {})[distance.kind] = distance
    heads = ["γ", "arm", "n", *[f"{kind}; minus cfg; minus cfg at this dose" for kind in kinds]]
    lines = [heads, ["---"] * len(heads)]
    for (scale, arm, n), distances in sorted(by_cell.items(), key=lambda item: item[0][0]):
        gamma = "every γ" if scale == ALL_SCALES else f"{scale:g}"
        lines.append([gamma, arm, str(n), *[_cell(distances[kind]) for kind in kinds]])
    return markdown(lines)


def _cell(found: Distance) -> str:
    parts = [str(found.distance)]
    for difference in (found.minus_cfg, found.minus_dose):
        parts.append("–" if difference is None else difference.signed)
    return "; ".join(parts)
