"""What S-CFG knows of model families: one file per family, none of which holds a forward of its own.

A family says which layers there are, where the attention function is called from, where text and image stand among
its keys, and which tokens are START.
"""

from typing import Any

from .base import Architecture, AttentionCall, Site
from .unet import UNet

__all__ = ["Architecture", "AttentionCall", "Site", "architecture_of"]

FAMILIES: tuple[type[Architecture], ...] = (UNet,)


def architecture_of(diffusion_model: Any) -> Architecture | None:
    """The family of a model, compiled or not; None where its attention cannot be observed."""
    module = getattr(diffusion_model, "_orig_mod", diffusion_model)  # torch.compile keeps the module there
    for family in FAMILIES:
        architecture = family.of(module)
        if architecture is not None:
            return architecture
    return None
