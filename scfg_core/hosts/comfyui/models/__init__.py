"""What S-CFG knows of model families: one file per family, none of which holds a forward of its own.

A family says which layers there are, where the attention function is called from, where text and image stand among
its keys, and what its text columns are (START, words, template, padding).
"""

from typing import Any

from .auraflow import AuraFlow
from .base import Architecture, AttentionCall, ModelCall, Site, Text
from .cosmos import Anima, Cosmos
from .flux import Flux
from .hidream import HiDream
from .hunyuan_image import HunyuanImage
from .kandinsky5 import Kandinsky5
from .lumina import Lumina
from .qwen_image import QwenImage
from .sd3 import SD3
from .unet import UNet

__all__ = ["Architecture", "AttentionCall", "ModelCall", "Site", "Text", "architecture_of"]

FAMILIES: tuple[type[Architecture], ...] = (
    UNet,
    Anima,
    Cosmos,
    Flux,
    QwenImage,
    Lumina,
    SD3,
    HiDream,
    AuraFlow,
    HunyuanImage,
    Kandinsky5,
)


def architecture_of(diffusion_model: Any) -> Architecture | None:
    """The family of a model, compiled or not; None where its attention cannot be observed."""
    module = getattr(diffusion_model, "_orig_mod", diffusion_model)  # torch.compile keeps the module there
    for family in FAMILIES:
        try:
            architecture = family.of(module)
        except ImportError:  # an older host has no such model
            continue
        if architecture is not None:
            return architecture
    return None
