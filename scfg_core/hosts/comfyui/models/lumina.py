"""Lumina 2 (NetaYume) and Z-Image: text, then the image; Z-Image pads both to multiples of 32.

The refiners before the blocks attend to text or image alone; they have no index, so they are not observed.
The first columns serve as START: Gemma's BOS, and the three of Z-Image's template, which no prompt changes.
"""

from dataclasses import dataclass
from typing import Any

from ....collect.calls import Layout
from ....grid import Grid
from .base import AttentionCall
from .transformer import JointTransformer, block_names


@dataclass(frozen=True)
class Lumina(JointTransformer):
    """`multiple`: text and patches are padded to it by learned tokens; 1 = not at all."""

    multiple: int = 1

    @classmethod
    def of(cls, module: Any) -> "Lumina | None":
        from comfy.ldm.lumina.model import NextDiT

        if type(module) is not NextDiT:
            return None
        blocks = block_names("double", module.layers)
        multiple = module.pad_tokens_multiple
        if multiple is None:
            return cls("Lumina 2", blocks, module.patch_size, starts=1)
        return cls("Z-Image", blocks, module.patch_size, starts=3, suffix=5, multiple=multiple)

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        first = -(-columns // self.multiple) * self.multiple
        keys = first + -(-grid.area // self.multiple) * self.multiple
        return Layout(keys, range(columns), range(first, first + grid.area))
