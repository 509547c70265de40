"""The experiment's plots as PNG files: the paper's trade-off, the ablation, and how equal the regions became."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .arms import MAIN
from .report import Row
from .statistics import Figure

INK, PAPER = "#222222", "#ffffff"
COLOURS = {"cfg": "#7a7a7a", "default": "#c2185b", "matched": "#1f77b4"}


def tradeoff(
    path: Path, rows: Sequence[Row], distances: Mapping[float, Mapping[str, tuple[Figure, Figure]]], measure: str
) -> None:
    """Fréchet distance against the headline measure, one curve per arm over γ: lower right is better."""
    figure, axes = _axes("Fréchet distance (lower is better)", f"{measure} (higher is better)")
    for arm in [name for name in MAIN if any(name in found for found in distances.values())]:
        own = [row for row in rows if row.arm == arm and arm in distances.get(row.scale, {})]
        x, y = [row.measures[measure] for row in own], [distances[row.scale][arm][0] for row in own]
        axes.errorbar(
            [each.mean for each in x],
            [each.mean for each in y],
            xerr=_bars(x),
            yerr=_bars(y),
            marker="o",
            capsize=2,
            color=COLOURS[arm],
            label=arm,
        )
        for row, a, b in zip(own, x, y, strict=True):
            axes.annotate(f"γ {row.scale:g}", (a.mean, b.mean), xytext=(5, 5), textcoords="offset points", size=8)
    _save(figure, axes, path)


def ablation(path: Path, rows: Sequence[Row], measure: str) -> None:
    """Every arm's paired difference from CFG at the same γ in the headline measure, with its interval."""
    arms = [arm for arm in dict.fromkeys(row.arm for row in rows) if arm != "cfg"]
    scales = sorted({row.scale for row in rows})
    figure, axes = _axes("", f"{measure}: difference from CFG at the same γ")
    for place, scale in enumerate(scales):
        own = {
            row.arm: row.comparisons["cfg"].difference for row in rows if row.scale == scale and row.arm != "cfg"
        }
        heights = [arms.index(arm) + 0.22 * (place - (len(scales) - 1) / 2) for arm in own]
        values = list(own.values())
        axes.errorbar(
            [each.mean for each in values], heights, xerr=_bars(values), fmt="o", capsize=2, label=f"γ {scale:g}"
        )
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(arms)), arms)
    axes.invert_yaxis()
    _save(figure, axes, path)


def spreads(path: Path, values: Mapping[str, Sequence[float]]) -> None:
    """Figure 1's claim over many prompts: how unequally the regions of each picture are guided, by arm."""
    figure, axes = _axes("share of pictures with less", "spread of the regions' guidance norms (0 = all alike)")
    for arm, own in values.items():
        ordered = sorted(own)
        axes.plot(ordered, [(k + 1) / len(ordered) for k in range(len(ordered))], color=COLOURS.get(arm), label=arm)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    _save(figure, axes, path)


def _axes(vertical: str, horizontal: str):
    figure, axes = plt.subplots(figsize=(7, 4.5), facecolor=PAPER)
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _bars(values: Sequence[Figure]) -> list[list[float]]:
    """Distances from the means to the ends of the intervals, as matplotlib wants them; none where there is none."""
    return [
        [max(0.0, each.mean - each.low) if each.low == each.low else 0.0 for each in values],
        [max(0.0, each.high - each.mean) if each.high == each.high else 0.0 for each in values],
    ]


def _save(figure, axes: Axes, path: Path) -> None:
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
