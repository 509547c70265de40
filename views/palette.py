"""Colours for colour-blind viewers too: one per word, neutral ones for special tokens, a ramp for scales."""

import numpy as np

from .text import Colour

WORDS: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (204, 121, 167),  # pink
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (240, 228, 66),  # yellow
    (136, 34, 85),  # wine
    (68, 170, 153),  # teal
    (153, 153, 51),  # olive
    (51, 34, 136),  # indigo
    (170, 110, 60),  # brown
)
"""The colours of Okabe and Ito (2008), then those of Tol's "muted" scheme that differ from them."""

COLOUR_NAMES = {
    **{"orange": 0, "cyan": 1, "green": 2, "pink": 3, "blue": 4, "red": 5, "yellow": 6},
    **{"wine": 7, "teal": 8, "olive": 9, "purple": 10, "indigo": 10, "brown": 11},
}
"""Index in `WORDS` of words that name a colour: "blue" beside a green swatch would be misread."""

START: Colour = (90, 90, 90)
END: Colour = (155, 155, 155)
PADDING: Colour = (210, 210, 210)
NOBODY: Colour = (240, 240, 240)
MASK: Colour = (250, 250, 250)
PAPER: Colour = (255, 255, 255)
RULE: Colour = (205, 205, 205)

_RAMP = np.array(
    [(5, 48, 97), (67, 147, 195), (209, 229, 240), (247, 247, 247), (253, 219, 199), (214, 96, 77), (103, 0, 31)],
    dtype=np.float64,
)
"""Blue through white to red (ColorBrewer "RdBu"): the two arms differ for every kind of colour vision."""


def word_colour(index: int) -> Colour:
    """Colour of the index-th word; after the first twelve they repeat, lighter, then darker."""
    turn, position = divmod(index, len(WORDS))
    base = np.array(WORDS[position], dtype=np.float64)
    target, amount = ((255, 0.0), (255, 0.45), (0, 0.4))[turn % 3]
    red, green, blue = (base + (target - base) * amount).round().astype(int).tolist()
    return red, green, blue


def diverging(values: np.ndarray) -> np.ndarray:
    """Values −1…1 of any shape → RGB uint8 (…, 3): blue below 0, white at 0, red above."""
    position = (np.clip(values, -1, 1) + 1) / 2 * (len(_RAMP) - 1)
    stops = np.arange(len(_RAMP))
    channels = [np.interp(position, stops, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)
