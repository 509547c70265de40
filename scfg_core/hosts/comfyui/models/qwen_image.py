"""Qwen-Image: text first, its padding masked; the prompt's template leaves five columns behind the prompt.

Columns of reference images (Qwen-Image-Edit) follow the image's.
"""

from dataclasses import dataclass
from typing import Any

from .transformer import JointTransformer, block_names


@dataclass(frozen=True)
class QwenImage(JointTransformer):
    @classmethod
    def of(cls, module: Any) -> "QwenImage | None":
        from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

        if type(module) is not QwenImageTransformer2DModel:
            return None
        blocks = block_names("double", module.transformer_blocks)
        return cls("Qwen-Image", blocks, module.patch_size, suffix=5, masks=True)
