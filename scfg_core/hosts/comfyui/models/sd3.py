"""SD 3 and SD 3.5: CLIP tokens, then T5's; a word of both has two columns. Column 0 is CLIP's START.

The host does not say which block runs, so blocks are marked. SD 3.5-M attends a second time in its first blocks, to
the patches alone; that call is not observed. Registers, where a model has some, stand before the text.
"""

from dataclasses import dataclass
from typing import Any

from ....collect.calls import Layout
from ....grid import Grid
from .base import AttentionCall
from .transformer import JointTransformer, block_names

BANDS = {24: (0.2, 0.45), 38: (0.42, 0.66)}
"""Depth → where the layers with text are in SD 3.5-M and SD 3.5-L."""


@dataclass(frozen=True)
class SD3(JointTransformer):
    registers: int = 0

    @classmethod
    def of(cls, module: Any) -> "SD3 | None":
        from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper

        if type(module) is not OpenAISignatureMMDITWrapper:
            return None
        depth = len(module.joint_blocks)
        return cls(
            "SD 3",
            block_names("double_block", module.joint_blocks),
            module.patch_size,
            starts=1,
            band=BANDS.get(depth, cls.band),
            marked_blocks=tuple(("double_block", index) for index in range(depth)),
            registers=module.register_length,
        )

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        first = self.registers + columns
        keys = first + grid.area
        return Layout(keys, range(self.registers, first), range(first, keys))
