"""What a finished run reports, in one line."""

from ...run.record import Run

BACKEND_NAMES = {"triton": "Triton", "pytorch": "PyTorch"}


def status_line(record: Run, guided: bool, experimental: str = "") -> str:
    """One line for the user, once the record is closed.

    guided        whether S-CFG changed the guidance at all.
    experimental  name of a model family that was not yet checked with real weights; "" = it was.
    """
    notes = " · ".join(record.notes)
    facts = record.facts
    if not record.evaluations or facts is None:
        return f"S-CFG inactive: {notes}"
    grids = " + ".join(str(grid) for grid in facts.grids)
    if facts.by_magnitude:
        parts = [f"by the magnitude of the guidance, without attention, {grids} patches"]
    else:
        parts = [f"{facts.layers} layers", f"grids {grids}", f"{facts.tokens} tokens"]
        parts.append("1 prompt" if facts.prompts == 1 else f"{facts.prompts} prompts")
        parts.append(f"mean γ {record.mean_guidance():.1f}" if guided else "guidance unchanged")
    parts.append(f"maps by {BACKEND_NAMES[facts.backend]}")
    parts += [f"follows {words} on {share:.0%}" for words, share in record.followed_shares()]
    state = "active" if guided else "observing"
    if experimental and not facts.by_magnitude:
        state += f" (experimental on {experimental})"
    return f"S-CFG {state}: {', '.join(parts)}" + (f" ({notes})" if notes else "")
