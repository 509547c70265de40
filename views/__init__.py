"""Draw a run as RGB uint8 images (H, W, 3), with numpy and Pillow, for the nodes and the demo.

`segmentation` (which word owns which region, with a legend), `followed` (where a mask follows words), `scale_map`
(γ in every patch), `curves` (the paper's Figure 1), and `inactive`, which says why there is nothing to see. A word
has the same colour at every step and in every view; a legend never covers the image.
"""

from .curves import curves
from .followed import followed
from .inactive import inactive
from .owners import Owner, owners_of, shares_of
from .scale_map import scale_map
from .segmentation import segmentation, segmentation_sheet

__all__ = [
    "Owner",
    "curves",
    "followed",
    "inactive",
    "owners_of",
    "scale_map",
    "segmentation",
    "segmentation_sheet",
    "shares_of",
]
