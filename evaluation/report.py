"""From an experiment's records to its tables: one row per arm and γ, and the paired comparisons that matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .arms import ARMS
from .experiment import Plan
from .statistics import Comparison, Figure, compare, mean_of_groups, share
from .store import Record, Store


@dataclass(frozen=True)
class Row:
    """One arm at one γ.

    measures     the judge's figures by name; the first is the headline.
    comparisons  of the headline, by the arm that it is compared with.
    spread       of the regions' norms as guided (Figure 1); None where nobody watched or the regions are made up.
    """

    scale: float
    arm: str
    n: int
    mean_scale: float
    measures: dict[str, Figure]
    comparisons: dict[str, Comparison]
    spread: Figure | None


def summarise(store: Store, plan: Plan, measures: Sequence[str]) -> list[Row]:
    """Rows by γ, then arm. Pairs are over all prompts that both arms drew."""
    rows = []
    for scale in plan.scales:
        records = {arm: [store.found[arm, scale, index] for index in range(plan.count(arm))] for arm in plan.arms}
        rows += [_row(scale, arm, records, measures) for arm in plan.arms]
    return rows


def _row(scale: float, arm: str, records: dict[str, list[Record]], measures: Sequence[str]) -> Row:
    own = records[arm]
    measures = [name for name in measures if any(name in record for record in own)]
    against = [name for name in ("cfg", ARMS[arm].control) if name in records and name != arm]
    has_spread = all("spread" in record for record in own) and ARMS[arm].regions == "attention"
    return Row(
        scale,
        arm,
        len(own),
        sum(record["mean_scale"] for record in own) / len(own),
        {name: _figure([record[name] for record in own if name in record]) for name in measures},
        {name: _compare(own, records[name], measures[0]) for name in dict.fromkeys(against)} if measures else {},
        mean_of_groups([[record["spread"]] for record in own]) if has_spread else None,
    )


def _figure(values: list[Any]) -> Figure:
    if isinstance(values[0], list):
        answered = [value for value in values if value]
        return share(answered) if answered else Figure(math.nan, math.nan, math.nan, 0)
    return mean_of_groups([[value] for value in values])


def _compare(ours: list[Record], theirs: list[Record], name: str) -> Comparison:
    pairs = [(one, other) for one, other in zip(ours, theirs, strict=False) if name in one and name in other]
    return compare([_group(one[name]) for one, _ in pairs], [_group(other[name]) for _, other in pairs])


def _group(value: Any) -> list[float]:
    return [float(each) for each in value] if isinstance(value, list) else [float(value)]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    names = list(dict.fromkeys(name for row in rows for name in row.measures))
    versus = [f"{names[0]}, minus cfg; better / worse", "the same, minus its control"] if names else []
    heads = ["γ", "arm", "n", "mean γ·r", *names, *versus, "spread of norms"]
    return markdown([heads, ["---"] * len(heads), *[_line(row, names) for row in rows]])


def _line(row: Row, names: Sequence[str]) -> list[str]:
    control = next((name for name in row.comparisons if name != "cfg"), "")
    against = [row.comparisons.get(name, "") for name in ("cfg", control)]
    return [
        f"{row.scale:g}",
        row.arm,
        str(row.n),
        f"{row.mean_scale:.2f}",
        *[str(row.measures.get(name, "–")) for name in names],
        *([str(against[0]), f"{control}: {against[1]}" if control else ""] if names else []),
        "–" if row.spread is None else str(row.spread),
    ]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def frechet_table(found: dict[str, dict[str, tuple[Figure, Figure]]]) -> str:
    """Distances by group of pictures, then arm: (distance, minus cfg)."""
    lines = [["pictures", "arm", "Fréchet distance", "minus cfg"], ["---"] * 4]
    for group, arms in found.items():
        for arm, (distance, gain) in arms.items():
            lines.append([group, arm, _short(distance), "" if arm == "cfg" else _short(gain, signed=True)])
    return markdown(lines)


def _short(figure: Figure, signed: bool = False) -> str:
    form = "{:+.2f}" if signed else "{:.2f}"
    mean, low, high = (form.format(value) for value in (figure.mean, figure.low, figure.high))
    return mean if math.isnan(figure.low) else f"{mean} [{low}, {high}]"
