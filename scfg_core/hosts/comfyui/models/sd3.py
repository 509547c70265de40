"""SD 3 and SD 3.5. The host does not say which block runs, so blocks are marked; registers, where a model has some,
stand before the text."""

from dataclasses import dataclass
from typing import Any

from ....collect.calls import Layout
from ....families import sd3
from ....grid import Grid
from .base import AttentionCall
from .transformer import JointTransformer, block_names


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
            sd3(depth).with_patch(module.patch_size),
            block_names("double_block", module.joint_blocks),
            marked_blocks=tuple(("double_block", index) for index in range(depth)),
            registers=module.register_length,
        )

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        return self.family.layout(columns, grid, before=self.registers)
