"""Kandinsky 5 for images. The blocks of the text run before, and have no index. The video model is left out."""

from dataclasses import dataclass
from math import prod
from typing import Any

from ....families import KANDINSKY_5
from .transformer import SeparateTransformer, block_names


@dataclass(frozen=True)
class Kandinsky5(SeparateTransformer):
    @classmethod
    def of(cls, module: Any) -> "Kandinsky5 | None":
        from comfy.ldm.kandinsky5.model import Kandinsky5 as Network

        if type(module) is not Network or module.visual_embed_dim != module.in_visual_dim * prod(module.patch_size):
            return None
        return cls(
            KANDINSKY_5.with_patch(module.patch_size[-1]), block_names("double", module.visual_transformer_blocks)
        )
