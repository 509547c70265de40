"""From judged pictures to a table: shares, paired differences, their 95 % intervals, better and worse."""

from __future__ import annotations

import math

from .evaluate import Figure, mean_of_groups, share
from .records import Pictures, Record


def arms_of(presets: list[str]) -> list[str]:
    """Names of the arms, in an order in which a control finds what it needs."""
    return ["cfg", *[f"{kind}:{preset}" for preset in presets for kind in ("scfg", "matched")]]


def compare_arms(ours: list[Record], theirs: list[Record]) -> Record:
    """Paired difference in the share of right phrases with its interval; prompts better and worse, sign test."""
    gains = [
        [float(a) - float(b) for a, b in zip(one["phrases"], other["phrases"], strict=True)]
        for one, other in zip(ours, theirs, strict=True)
    ]
    better, worse = sum(sum(gain) > 0 for gain in gains), sum(sum(gain) < 0 for gain in gains)
    return {"difference": mean_of_groups(gains), "better": better, "worse": worse, "p": sign_test(better, worse)}


def sign_test(better: int, worse: int) -> float:
    """Two-sided probability of counts at least as uneven as these, if both were equally likely."""
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    return min(1.0, 2 * tail)


def summarise(pictures: Pictures, count: int, scales: list[float], presets: list[str]) -> list[Record]:
    """One row per scale and arm."""
    rows: list[Record] = []
    for scale in scales:
        chosen = {arm: [pictures.found[arm, scale, index] for index in range(count)] for arm in arms_of(presets)}
        for arm, records in chosen.items():
            kind, _, preset = arm.partition(":")
            row: Record = {"scale": scale, "arm": arm, "n": count}
            row["mean scale"] = sum(record["mean_scale"] for record in records) / count
            for name in ("phrases", "background", "places"):
                answers = [record[name] for record in records if record[name]]
                row[name] = share(answers) if answers else None
            if arm != "cfg":
                row["against cfg"] = compare_arms(records, chosen["cfg"])
            if kind == "scfg":
                row["against matched"] = compare_arms(records, chosen[f"matched:{preset}"])
                for name in ("spread_before", "spread_after"):
                    row[name] = mean_of_groups([[record[name]] for record in records])
            rows.append(row)
    return rows


def table(rows: list[Record]) -> str:
    """The rows as a Markdown table."""
    heads = ["γ", "arm", "mean γ·r", "phrases right", "backgrounds right", "places right"]
    heads += ["phrases, minus CFG", "better / worse (p)", "phrases, minus matched", "better / worse (p)"]
    heads += ["spread of norms"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        line = [f"{row['scale']:g}", row["arm"], f"{row['mean scale']:.2f}"]
        line += ["–" if row[name] is None else str(row[name]) for name in ("phrases", "background", "places")]
        for other in ("against cfg", "against matched"):
            line += _against(row[other]) if other in row else ["", ""]
        spreads = [f"{row[name].mean:.2f}" for name in ("spread_before", "spread_after") if name in row]
        lines.append([*line, " → ".join(spreads)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _against(result: Record) -> list[str]:
    difference: Figure = result["difference"]
    shown = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return [shown, f"{result['better']} / {result['worse']} ({result['p']:.2f})"]
