"""Kandinsky 5 for images: self-attention, then attention to the prompt, whose template leaves one column behind it.

The blocks of the text run before, and have no index. The video model is left out.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

from .transformer import SeparateTransformer, block_names


@dataclass(frozen=True)
class Kandinsky5(SeparateTransformer):
    @classmethod
    def of(cls, module: Any) -> "Kandinsky5 | None":
        from comfy.ldm.kandinsky5.model import Kandinsky5 as Network

        if type(module) is not Network or module.visual_embed_dim != module.in_visual_dim * prod(module.patch_size):
            return None
        blocks = block_names("double", module.visual_transformer_blocks)
        return cls("Kandinsky 5", blocks, module.patch_size[-1], suffix=1)
