"""From a prompt back to what it asks for, so that a picture of any such prompt can be judged by `demo.score`."""

from __future__ import annotations

import re

from .world import COLOURS, MOST_SHAPES, PLACES, SHAPES, Description, Phrase

_ANY = {"colour": "|".join(COLOURS), "shape": "|".join(SHAPES), "place": "|".join(PLACES)}
_PHRASE = "a (?P<colour>{colour}) (?P<shape>{shape})(?: on the (?P<place>{place}))?".format(**_ANY)
_BACKGROUND = "on a (?P<colour>{colour}) background".format(**_ANY)


def parse(words: list[str]) -> Description | None:
    """What a prompt's words ask for; None where they do not read like a caption of the demo's world."""
    text = " ".join(words)
    head, _, background = text.partition(" on a ")
    said = re.fullmatch(_BACKGROUND, f"on a {background}") if background else None
    found = [re.fullmatch(_PHRASE, part) for part in head.split(" and ")]
    phrases = [match for match in found if match]
    if len(phrases) != len(found) or len(phrases) > MOST_SHAPES or (background and not said):
        return None
    names = list(COLOURS)
    return Description(
        tuple(Phrase(names.index(m["colour"]), SHAPES.index(m["shape"]), m["place"]) for m in phrases),
        names.index(said["colour"]) if said else None,
    )
