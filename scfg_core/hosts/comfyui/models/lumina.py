"""Lumina 2 (NetaYume) and Z-Image: text, then the image.

The refiners before the blocks attend to text or image alone; they have no index, so they are not observed.
"""

from dataclasses import dataclass, replace
from typing import Any

from ....collect.calls import Layout
from ....families import LUMINA_2, Z_IMAGE
from ....grid import Grid
from .base import AttentionCall
from .transformer import JointTransformer, block_names


@dataclass(frozen=True)
class Lumina(JointTransformer):
    @classmethod
    def of(cls, module: Any) -> "Lumina | None":
        from comfy.ldm.lumina.model import NextDiT

        if type(module) is not NextDiT:
            return None
        multiple = module.pad_tokens_multiple
        family = LUMINA_2 if multiple is None else replace(Z_IMAGE, multiple=multiple)
        return cls(family.with_patch(module.patch_size), block_names("double", module.layers))

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        """Reference images change the order, which such a layout does not have."""
        return self.family.layout(columns, grid)
