"""The experiment's plots as PNG files: trade-offs, doses of guidance, the ablation, kinds of region, evenness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from .distances import Distance
from .report import AT_DOSE, Row
from .statistics import Figure

INK, PAPER = "#222222", "#ffffff"
COLOURS = {
    "cfg": "#7a7a7a",
    "default": "#c2185b",
    "matched": "#1f77b4",
    "mean-preserving": "#2e7d32",
    "patches": "#ef6c00",
    "shuffled": "#7b3fb5",
}
WHOLE = "whole"


def tradeoff(path: Path, rows: Sequence[Row], distances: Sequence[Distance], measures: Sequence[str]) -> None:
    """What the headline measure costs: Fréchet distance, and the last measure; one curve per arm, lower right wins.

    rows: their numbers are γ.
    """
    headline, costs = measures[0], measures[1:][-1:]
    canvas, panels = _canvas(1 + len(costs))
    whole = _whole(distances)
    for arm, mine in _by_arm(rows).items():
        known = [row for row in mine if (arm, row.scale) in whole]
        _trade(panels[0], arm, known, headline, [whole[arm, row.scale].distance for row in known])
        for axes, name in zip(panels[1:], costs, strict=True):
            _trade(axes, arm, mine, headline, [row.measures[name] for row in mine])
    for axes, name in zip(panels, ["Fréchet distance", *costs], strict=True):
        _label(axes, f"{headline} (higher is better)", f"{name} (lower is better)")
    _save(canvas, panels[0], path)


def _trade(axes: Axes, arm: str, rows: Sequence[Row], headline: str, costs: Sequence[Figure]) -> None:
    gains = [row.measures[headline] for row in rows]
    _curve(axes, arm, [gain.mean for gain in gains], costs, xerr=_bars(gains))
    for row, gain, cost in zip(rows, gains, costs, strict=True):
        axes.annotate(f"{row.scale:g}", (gain.mean, cost.mean), xytext=(4, 4), textcoords="offset points", size=8)


def doses(path: Path, rows: Sequence[Row], distances: Sequence[Distance], measures: Sequence[str]) -> None:
    """Measures and the Fréchet distance over the mean guidance scale that the images really had."""
    shown = [measures[0], *measures[-1:]] if len(measures) > 1 else [measures[0]]
    canvas, panels = _canvas(len(shown) + 1)
    whole = _whole(distances)
    for arm, mine in _by_arm(rows).items():
        x = [row.mean_scale for row in mine]
        for axes, name in zip(panels, shown, strict=False):
            _curve(axes, arm, x, [row.measures[name] for row in mine])
        known = [row for row in mine if (arm, row.scale) in whole]
        y = [whole[arm, row.scale].distance for row in known]
        _curve(panels[-1], arm, [row.mean_scale for row in known], y)
    for axes, name in zip(panels, [*shown, "Fréchet distance"], strict=True):
        _label(axes, "mean guidance scale, γ·r", name)
    _save(canvas, panels[0], path)


def ablation(path: Path, rows: Sequence[Row], measure: str) -> None:
    """Every arm's paired difference in the headline measure from CFG at the same γ, and at the same dose."""
    arms = [arm for arm in dict.fromkeys(row.arm for row in rows) if arm != "cfg"]
    scales = sorted({row.scale for row in rows if row.arm != "cfg"})
    canvas, panels = _canvas(2, height=max(4.5, 0.45 * len(arms)), share_vertical=True)
    for axes, other in zip(panels, ("cfg", AT_DOSE), strict=True):
        for place, scale in enumerate(scales):
            shown = {
                row.arm: row.comparisons[measure][other].difference
                for row in rows
                if row.scale == scale and other in row.comparisons.get(measure, {})
            }
            heights = [arms.index(arm) + 0.6 / len(scales) * (place - (len(scales) - 1) / 2) for arm in shown]
            values = list(shown.values())
            means = [figure.mean for figure in values]
            axes.errorbar(
                means, heights, xerr=_bars(values), fmt="o", markersize=4, capsize=2, label=f"γ {scale:g}"
            )
        axes.axvline(0, color=INK, linewidth=0.8)
        _label(axes, f"{measure}: minus CFG at the same {'γ' if other == 'cfg' else 'mean scale'}", "")
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].invert_yaxis()
    _save(canvas, panels[1], path)


def regions(path: Path, distances: Sequence[Distance]) -> None:
    """By kind of region, the Fréchet distance minus CFG's at the same mean scale; lower is better."""
    kinds = list(dict.fromkeys(distance.kind for distance in distances))
    canvas, panels = _canvas(len(kinds))
    for axes, kind in zip(panels, kinds, strict=True):
        for arm in COLOURS:
            mine = [one for one in distances if one.arm == arm and one.kind == kind and one.minus_dose]
            if mine:
                _curve(axes, arm, [one.scale for one in mine], [one.minus_dose for one in mine if one.minus_dose])
        axes.axhline(0, color=INK, linewidth=0.8)
        _label(axes, "γ", f"{kind}: minus CFG at the same mean scale")
    _save(canvas, panels[0], path)


def spreads(path: Path, values: Mapping[str, Sequence[float]]) -> None:
    """Figure 1's claim over many prompts: how unequally the regions of each image are guided, by arm."""
    canvas, (axes,) = _canvas(1)
    _label(axes, "spread of the regions' guidance norms (0 = all alike)", "share of images with less")
    for number, (name, found) in enumerate(values.items()):
        ordered = sorted(found)
        style = ("-", "--", ":", "-.")[number % 4]
        colour = COLOURS.get(name.split(",")[0])
        axes.plot(ordered, [(k + 1) / len(ordered) for k in range(len(ordered))], style, color=colour, label=name)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    _save(canvas, axes, path)


def _by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {arm: [row for row in rows if row.arm == arm] for arm in dict.fromkeys(row.arm for row in rows)}


def _whole(distances: Sequence[Distance]) -> dict[tuple[str, float], Distance]:
    return {(distance.arm, distance.scale): distance for distance in distances if distance.kind == WHOLE}


def _curve(
    axes: Axes, arm: str, x: Sequence[float], y: Sequence[Figure], xerr: list[list[float]] | None = None
) -> None:
    means = [figure.mean for figure in y]
    axes.errorbar(
        x, means, xerr=xerr, yerr=_bars(y), marker="o", markersize=4, capsize=2, color=COLOURS.get(arm), label=arm
    )


def _canvas(panels: int, height: float = 4.5, share_vertical: bool = False) -> tuple[Canvas, list[Axes]]:
    width = 7 if panels == 1 else 5 * panels
    canvas, found = plt.subplots(
        1,
        panels,
        figsize=(width, height),
        facecolor=PAPER,
        squeeze=False,
        sharey=share_vertical,
        layout="constrained",
    )
    for axes in found[0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return canvas, list(found[0])


def _label(axes: Axes, horizontal: str, vertical: str) -> None:
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)


def _bars(values: Sequence[Figure]) -> list[list[float]]:
    """Distances from the means to the ends of the intervals, as matplotlib wants them; none where there is none."""
    return [
        [max(0.0, figure.mean - figure.low) if figure.low == figure.low else 0.0 for figure in values],
        [max(0.0, figure.high - figure.mean) if figure.high == figure.high else 0.0 for figure in values],
    ]


def _save(canvas: Canvas, axes: Axes, path: Path) -> None:
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=130)
    plt.close(canvas)
