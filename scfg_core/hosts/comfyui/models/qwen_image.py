"""Qwen-Image and Qwen-Image-Edit."""

from dataclasses import dataclass
from typing import Any

from ....families import QWEN_IMAGE
from .transformer import JointTransformer, block_names


@dataclass(frozen=True)
class QwenImage(JointTransformer):
    @classmethod
    def of(cls, module: Any) -> "QwenImage | None":
        from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

        if type(module) is not QwenImageTransformer2DModel:
            return None
        return cls(QWEN_IMAGE.with_patch(module.patch_size), block_names("double", module.transformer_blocks))
