"""What S-CFG knows of diffusers models: how each is called, and where its layers are. Nothing imports diffusers.

What is known of a family of transformers whichever host runs it stands in `scfg_core/families`.
"""

from torch import nn

from ....errors import ScfgError
from .base import Form, Layer, Model, ModelCall, Part, Raw, Sink, Wording
from .lumina import Lumina2, ZImage
from .packed import Chroma, Flux, QwenImage
from .sd3 import SD3
from .unet import UNet
from .unet_layers import TransformerBlock, find_blocks, find_layers

__all__ = [
    "Form",
    "Layer",
    "Model",
    "ModelCall",
    "Part",
    "Raw",
    "Sink",
    "TransformerBlock",
    "Wording",
    "find_blocks",
    "find_layers",
    "model_of",
]

TRANSFORMERS = {
    "SD3Transformer2DModel": SD3,
    "QwenImageTransformer2DModel": QwenImage,
    "ChromaTransformer2DModel": Chroma,
    "Lumina2Transformer2DModel": Lumina2,
    "ZImageTransformer2DModel": ZImage,
    "FluxTransformer2DModel": Flux,
}
"""By the name of the network's class."""


def model_of(module: nn.Module) -> Model:
    """The model that this network is. Raises `ScfgError` for one that S-CFG does not know."""
    inner = getattr(module, "_orig_mod", module)  # torch.compile keeps the module there
    found = next((TRANSFORMERS[cls.__name__] for cls in type(inner).__mro__ if cls.__name__ in TRANSFORMERS), None)
    if found is not None:
        return found.of(module)
    if type(inner).__name__.endswith(("Transformer2DModel", "Transformer3DModel", "DiTModel")):
        raise ScfgError(
            f"expected a text-conditioned U-Net, or one of {', '.join(TRANSFORMERS)}, got {type(inner).__name__}: "
            "S-CFG does not know where text and image stand in it; sample such a pipeline without"
        )
    return UNet.of(module)
