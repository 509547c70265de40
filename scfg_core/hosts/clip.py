"""Prompts of CLIP text encoders: chunks of 77 tokens, each with a START of its own."""

from collections.abc import Iterable

CHUNK = 77


def chunk_starts(length: int, given: Iterable[int] = ()) -> tuple[int, ...]:
    """Columns of START: `given` by the encoder, and those of whole chunks; the first where neither says
    anything."""
    known = {start for start in given if start < length}
    if length % CHUNK == 0:
        known.update(range(0, length, CHUNK))
    return tuple(sorted(known or {0}))
