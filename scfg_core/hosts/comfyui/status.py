"""What a finished run says of itself, in one line."""

from ...trace import Run


def status_line(record: Run, guided: bool) -> str:
    """One line for the user, once the record is closed; `guided`: whether S-CFG changed the guidance at all."""
    notes = "; ".join(record.notes)
    if not record.evaluations:
        return f"S-CFG inactive: {notes or 'nothing was sampled'}"
    facts = record.facts
    grids = " + ".join(str(grid) for grid in facts["grids"])
    parts = [f"{facts['layers']} layers", f"grids {grids}", f"{facts['tokens']} tokens"]
    parts.append(_counted(facts["entries"], "entry", "entries"))
    parts.append(f"mean γ {record.mean_guidance():.1f}" if guided else "guidance untouched")
    state = "active" if guided else "watching"
    return f"S-CFG {state}: {', '.join(parts)}" + (f" ({notes})" if notes else "")


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
