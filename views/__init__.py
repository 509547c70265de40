"""A trace → pictures, with numpy and Pillow: RGB uint8 (H, W, 3), for the nodes and the demo alike.

`segmentation` (who owns what, with a legend), `scale_map` (γ at every place), `curves` (the paper's Figure 1).
A word has one colour in every step and view; a legend has paper of its own and never covers the picture.
"""

from .curves import curves
from .owners import Owner, owners_of, shares_of
from .scale_map import scale_map
from .segmentation import segmentation, segmentation_sheet

__all__ = ["Owner", "curves", "owners_of", "scale_map", "segmentation", "segmentation_sheet", "shares_of"]
