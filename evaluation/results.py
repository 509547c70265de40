"""The end of an experiment: tables (Markdown and JSON) and plots, written into its folder and printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from . import plots
from .arms import MAIN
from .distances import ALL_SCALES, Distance, Sight, distance_table, measure_distances
from .experiment import Plan
from .report import Row, detail_table, finished, summarise, table
from .store import Record, Store, write_whole


def write_results(
    store: Store,
    plan: Plan,
    measures: Sequence[str],
    made_with: Record,
    sight: Sight | None = None,
    rounds: int = 0,
    details: Sequence[str] = (),
) -> str:
    """table.md, table.json and the plots in the experiment's folder; the text of table.md.

    measures: names of the records' values, the headline first; details: those of a table of their own. Without
    `sight` there are no Fréchet distances.
    """
    rows = summarise(store, plan, [*measures, *details])
    found = [] if sight is None else measure_distances(store, plan, rows, sight, rounds)
    shown = [name for name in measures if any(name in row.measures for row in rows)]
    parts = [table(rows, shown)]
    parts += [distance_table(found)] if found else []
    parts += [detail_table(rows, details)] if details else []
    parts.append(open_cells(store, plan))
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_whole(store.folder / "table.md", text)
    content = {
        "made with": made_with,
        "rows": [asdict(row) for row in rows],
        "frechet": [asdict(distance) for distance in found],
        "open": _open(store, plan),
    }
    write_whole(store.folder / "table.json", json.dumps(content, indent=1) + "\n")
    _draw_plots(store, rows, found, [name for name in measures if all(name in row.measures for row in rows)])
    return text


def _open(store: Store, plan: Plan) -> list[tuple[str, float, int]]:
    """(arm, γ, prompts that are missing) of the plan."""
    counts = finished(store, plan).items()
    return [(arm, scale, plan.count(arm) - count) for (arm, scale), count in counts if count < plan.count(arm)]


def open_cells(store: Store, plan: Plan) -> str:
    """What of the plan is not drawn yet, as a sentence; empty where all of it is."""
    cells = [f"{arm} at γ {scale:g} ({missing})" for arm, scale, missing in _open(store, plan)]
    return f"Not drawn yet (prompts): {', '.join(cells)}." if cells else ""


def _draw_plots(store: Store, rows: Sequence[Row], found: Sequence[Distance], measures: Sequence[str]) -> None:
    folder = store.folder
    spreads = {
        f"{row.arm}, γ {row.scale:g}": [
            store.found[row.arm, row.scale, index]["spread"]
            for index in range(row.n)
            if "spread" in store.found[row.arm, row.scale, index]
        ]
        for row in rows
        if row.arm in ("cfg", "default")
    }
    if any(spreads.values()):
        plots.spreads(folder / "spread.png", {name: values for name, values in spreads.items() if values})
    if measures:
        plots.ablation(folder / "ablation.png", rows, measures[0])
    cells = [distance for distance in found if distance.scale != ALL_SCALES]
    main = [row for row in rows if row.arm in MAIN]
    if measures and cells:
        plots.tradeoff(folder / "tradeoff.png", main, cells, measures)
        plots.doses(folder / "dose.png", main, cells, measures)
    if len({distance.kind for distance in cells}) > 1:
        plots.regions(folder / "regions.png", [distance for distance in cells if distance.arm in MAIN])
