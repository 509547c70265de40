"""What is known of the transformers, whichever host runs them: one row a family.

A row says where text and image stand among the keys of a layer, which text columns are START, template or padding,
which part of the depth is observed, and how large a patch is. How a host calls its network is the host's affair:
`hosts/comfyui/models` and `hosts/diffusers/models` have one adapter for every network, and take the row from here.
"""

from .family import Family
from .table import (
    ANIMA,
    AURA_FLOW,
    CHROMA,
    COSMOS,
    FLUX_1,
    HIDREAM,
    HUNYUAN_IMAGE,
    KANDINSKY_5,
    LUMINA_2,
    QWEN_IMAGE,
    Z_IMAGE,
    flux_2,
    sd3,
)
from .text import Columns, Text

__all__ = [
    "ANIMA",
    "AURA_FLOW",
    "CHROMA",
    "COSMOS",
    "FLUX_1",
    "HIDREAM",
    "HUNYUAN_IMAGE",
    "KANDINSKY_5",
    "LUMINA_2",
    "QWEN_IMAGE",
    "Z_IMAGE",
    "Columns",
    "Family",
    "Text",
    "flux_2",
    "sd3",
]
