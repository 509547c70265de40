"""How ComfyUI runs the model families: one file per network, none of which holds a forward of its own.

A file says which layers there are, where the attention function is called from, and in which order text and image
stand there. What is known of a family whichever host runs it stands in `scfg_core/families`.
"""

from typing import Any

from ....families import Text
from .auraflow import AuraFlow
from .base import Architecture, AttentionCall, ModelCall, Site
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
