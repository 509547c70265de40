"""From an experiment's records to its tables: one row per arm and γ, and the paired comparisons that matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .arms import ARMS
from .experiment import Plan
from .statistics import Comparison, Figure, compare, mean_of_groups, share
from .store import Record, Store

AT_DOSE = "cfg at this dose"
"""CFG at the arm's mean γ·r, interpolated, prompt by prompt, between the two nearest γ that CFG was drawn at."""


@dataclass(frozen=True)
class Row:
    """One arm at one γ, over the first n prompts.

    measures     the figures by name; the first is the headline.
    comparisons  by measure, then by what it is compared with: "cfg" at the same γ, the arm's control, `AT_DOSE`.
    spread       of the regions' norms as guided (Figure 1); None where nobody watched or the regions are made up.
    """

    scale: float
    arm: str
    n: int
    mean_scale: float
    measures: dict[str, Figure]
    comparisons: dict[str, dict[str, Comparison]]
    spread: Figure | None


def finished(store: Store, plan: Plan) -> dict[tuple[str, float], int]:
    """(arm, γ) → how many of the plan's prompts are drawn, counted from the first without a gap."""
    counts = {}
    for arm, scale in plan.cells(plan.arms):
        missing = store.missing(arm, scale, range(plan.count(arm)))
        counts[arm, scale] = missing[0] if missing else plan.count(arm)
    return counts


def summarise(store: Store, plan: Plan, measures: Sequence[str]) -> list[Row]:
    """Rows by γ, then arm, of whatever is drawn. Pairs are over all prompts that both arms drew."""
    counts = finished(store, plan)
    records = {
        (arm, scale): [store.found[arm, scale, index] for index in range(count)]
        for (arm, scale), count in counts.items()
        if count
    }
    order = {arm: place for place, arm in enumerate(plan.arms)}
    return [_row(cell, records, measures) for cell in sorted(records, key=lambda cell: (cell[1], order[cell[0]]))]


def _row(cell: tuple[str, float], records: dict[tuple[str, float], list[Record]], measures: Sequence[str]) -> Row:
    (arm, scale), ours = cell, records[cell]
    names = [name for name in measures if any(name in record for record in ours)]
    dose = sum(record["mean_scale"] for record in ours) / len(ours)
    has_spread = all("spread" in record for record in ours) and ARMS[arm].regions == "attention"
    comparisons: dict[str, dict[str, Comparison]] = {}
    if arm != "cfg":
        for name in names:
            against = _opponents(arm, scale, dose, records, name)
            found = {other: _compare(ours, theirs, name) for other, theirs in against.items()}
            comparisons[name] = {other: comparison for other, comparison in found.items() if comparison}
    return Row(
        scale,
        arm,
        len(ours),
        dose,
        {name: _figure([record[name] for record in ours if name in record]) for name in names},
        comparisons,
        mean_of_groups([[record["spread"]] for record in ours]) if has_spread else None,
    )


def _opponents(
    arm: str, scale: float, dose: float, records: dict[tuple[str, float], list[Record]], name: str
) -> dict[str, list[Record]]:
    control = ARMS[arm].control
    found = {other: records[other, scale] for other in ("cfg", control) if (other, scale) in records}
    place = between(dose, [of for name_of, of in records if name_of == "cfg"])
    if place is not None:
        low, high, weight = place
        pairs = zip(records["cfg", low], records["cfg", high], strict=False)
        found[AT_DOSE] = [{name: _mixed(one.get(name), other.get(name), weight)} for one, other in pairs]
    return {other: theirs for other, theirs in found.items() if other is not None}


def between(dose: float, scales: Sequence[float]) -> tuple[float, float, float] | None:
    """The two scales nearest below and above a dose, and the weight of the upper; None where it lies outside."""
    below = [scale for scale in scales if scale <= dose * (1 + 1e-3)]
    above = [scale for scale in scales if scale >= dose * (1 - 1e-3)]
    if not below or not above:
        return None
    low, high = max(below), min(above)
    return (low, high, (dose - low) / (high - low)) if high > low else (high, high, 0.0)


def _mixed(one: Any, other: Any, weight: float) -> Any:
    if isinstance(one, list):
        return [(1 - weight) * a + weight * b for a, b in zip(one, other, strict=True)]
    return None if one is None or other is None else (1 - weight) * one + weight * other


def _figure(values: list[Any]) -> Figure:
    if isinstance(values[0], list):
        answered = [value for value in values if value]
        return share(answered)
    return mean_of_groups([[value] for value in values])


def _compare(ours: list[Record], theirs: list[Record], name: str) -> Comparison | None:
    """None where no prompt asks for it."""
    pairs = zip(ours, theirs, strict=False)
    known = [(one[name], other[name]) for one, other in pairs if name in one and other.get(name) is not None]
    groups = [(_group(one), _group(other)) for one, other in known if one != []]
    return compare([one for one, _ in groups], [other for _, other in groups]) if groups else None


def _group(value: Any) -> list[float]:
    return [float(answer) for answer in value] if isinstance(value, list) else [float(value)]


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """The rows as a Markdown table: these measures, and the comparisons of the first."""
    versus = [f"{names[0]} minus {other}; better / worse" for other in ("cfg", "control", AT_DOSE)] if names else []
    heads = ["γ", "arm", "n", "mean γ·r", *names, *versus, "spread of norms"]
    return markdown([heads, ["---"] * len(heads), *[_line(row, names) for row in rows]])


def _line(row: Row, names: Sequence[str]) -> list[str]:
    against = row.comparisons.get(names[0], {}) if names else {}
    control = next((name for name in against if name not in ("cfg", AT_DOSE)), "")
    versus = [str(against.get("cfg", "")), f"{control}: {against[control]}" if control else ""]
    versus.append(str(against.get(AT_DOSE, "")))
    return [
        f"{row.scale:g}",
        row.arm,
        str(row.n),
        f"{row.mean_scale:.2f}",
        *[str(row.measures.get(name, "–")) for name in names],
        *(versus if names else []),
        "–" if row.spread is None else str(row.spread),
    ]


def detail_table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """These measures of the rows that have any."""
    lines = [["γ", "arm", "n", *names], ["---"] * (3 + len(names))]
    for row in rows:
        if any(name in row.measures for name in names):
            values = [str(row.measures.get(name, "–")) for name in names]
            lines.append([f"{row.scale:g}", row.arm, str(row.n), *values])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
