"""Which attention layers are watched: of a U-Net those of its two deepest levels that have attention, of a
transformer about five between 30 and 50 % of its depth.

A host reads the layers off its module tree; sizes play no part, so an odd image chooses the same layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import SettingsError, ShapeError

LayerChoice = Literal["auto", "all", "last"]

LEVELS = 2
WHOLE_LEVEL = 6
"""Most layers that "auto" takes whole from one level."""
LAST = 3
"""Layers that "last" takes from each level, the last to run (the authors' code for IF)."""

BAND = (0.3, 0.5)
"""Depth between which "auto" chooses the blocks of a transformer, 0 = its first, 1 = behind its last."""
BAND_LAYERS = 5
"""Most blocks that "auto" chooses there."""


@dataclass(frozen=True)
class LayerInfo:
    """A transformer block with self- and cross-attention; `level`: how often the image was halved before it.

    Level 0 is full resolution; the middle block counts to the deepest level.
    """

    name: str
    level: int


def choose_layers(layers: Sequence[LayerInfo], choice: LayerChoice) -> list[str]:
    """Names of the chosen layers, in the order of `layers`, which is the order in which they run.

    choice  "all" of the two deepest levels with attention; the "last" three of each; or "auto": all where a
            level has at most six, else its last three (SDXL holds 70 in its two).

    Raises `ShapeError` where there are no layers, `SettingsError` for another choice.
    """
    if not layers:
        raise ShapeError("expected a U-Net with cross-attention, got none: pass a text-conditioned U-Net")
    if choice not in get_args(LayerChoice):
        raise SettingsError(f"expected layers of {', '.join(get_args(LayerChoice))}, got {choice!r}: choose one")
    chosen: set[str] = set()
    for level in sorted({layer.level for layer in layers})[-LEVELS:]:
        names = [layer.name for layer in layers if layer.level == level]
        whole = choice == "all" or (choice == "auto" and len(names) <= WHOLE_LEVEL)
        chosen.update(names if whole else names[-LAST:])
    return [layer.name for layer in layers if layer.name in chosen]


def choose_by_depth(
    names: Sequence[str], choice: LayerChoice, band: tuple[float, float] = BAND, most: int = BAND_LAYERS
) -> list[str]:
    """Names of the chosen blocks of a transformer, in the order of `names`, which is the order in which they run.

    choice  "all"; the "last" five; or "auto": `most`, evenly spaced over `band` of the depth.

    Raises `ShapeError` where there are no blocks, `SettingsError` for another choice.
    """
    if not names:
        raise ShapeError("expected a transformer with attention to the text, got none: pass a text-conditioned one")
    if choice not in get_args(LayerChoice):
        raise SettingsError(f"expected layers of {', '.join(get_args(LayerChoice))}, got {choice!r}: choose one")
    if choice != "auto":
        return list(names) if choice == "all" else list(names[-BAND_LAYERS:])
    first, end = (round(part * len(names)) for part in band)
    inside = names[first : max(end, first + 1)]
    count = min(most, len(inside))
    return [inside[place * len(inside) // count] for place in range(count)]
