"""The end of an experiment: tables (Markdown and JSON) and plots, written into its folder and printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch
from torch import Tensor
from tqdm import tqdm

from . import plots
from .arms import MAIN
from .experiment import Plan
from .frechet import Extractor, distances, kept_features
from .report import frechet_table, summarise, table
from .statistics import Figure
from .store import Record, Store, write_whole

Features = dict[str, dict[float, Tensor]]
"""Features (n, D) by arm and γ, in the order of the prompts."""


def features_of(store: Store, plan: Plan, extract: Extractor) -> Features:
    """Features of every picture, kept beside the pictures so that nothing is looked at twice."""
    found: Features = {}
    for arm in tqdm(plan.arms, desc="features", unit="arm"):
        found[arm] = {}
        for scale in plan.scales:
            count = plan.count(arm)
            path = store.folder / "features" / f"{arm} {scale:g}.npy"
            images = (store.image(arm, scale, index) for index in range(count))
            found[arm][scale] = kept_features(path, extract, images, count)
    return found


def frechet_groups(
    features: Features, real: Tensor, plan: Plan, rounds: int
) -> dict[str, dict[str, tuple[Figure, Figure]]]:
    """Distances by group of pictures: the main arms at each γ and over all γ; all arms over all γ."""

    def pooled(arm: str, count: int, scales: Sequence[float]) -> Tensor:
        return torch.stack([features[arm][scale][:count] for scale in scales], dim=1)

    main, most = [arm for arm in plan.arms if arm in MAIN], plan.count(MAIN[0])
    groups = [(f"γ {scale:g}", main, most, [scale]) for scale in plan.scales]
    if len(plan.scales) > 1:
        groups.append(("every γ", main, most, list(plan.scales)))
    groups.append(("every γ, all arms", list(plan.arms), plan.prompts, list(plan.scales)))
    return {
        f"{name} ({count * len(scales)})": distances(
            real, {arm: pooled(arm, count, scales) for arm in arms}, MAIN[0], rounds
        )
        for name, arms, count, scales in groups
    }


def write_results(
    store: Store,
    plan: Plan,
    measures: Sequence[str],
    made_with: Record,
    groups: Mapping[str, Mapping[str, tuple[Figure, Figure]]] | None = None,
) -> str:
    """table.md, table.json and the plots in the experiment's folder; the text of table.md."""
    rows = summarise(store, plan, measures)
    shown = [name for name in measures if all(name in row.measures for row in rows)]
    text = table(rows) + ("" if groups is None else "\n\n" + frechet_table(groups)) + "\n"
    write_whole(store.folder / "table.md", text)
    content = {"made with": made_with, "rows": [asdict(row) for row in rows]}
    if groups is not None:
        content["frechet"] = {
            group: {arm: [asdict(figure) for figure in pair] for arm, pair in arms.items()}
            for group, arms in groups.items()
        }
    write_whole(store.folder / "table.json", json.dumps(content, indent=1) + "\n")
    spreads = {
        f"{arm}, γ {scale:g}": [
            store.found[arm, scale, index]["spread"]
            for index in range(plan.count(arm))
            if "spread" in store.found[arm, scale, index]
        ]
        for arm in ("cfg", "default")
        if arm in plan.arms
        for scale in plan.scales
    }
    spreads = {name: values for name, values in spreads.items() if values}
    if spreads:
        plots.spreads(store.folder / "spread.png", spreads)
    if shown:
        plots.ablation(store.folder / "ablation.png", rows, shown[0])
    if shown and groups is not None:
        by_scale = dict(zip(plan.scales, groups.values(), strict=False))
        plots.tradeoff(store.folder / "tradeoff.png", rows, by_scale, shown[0])
    return text
