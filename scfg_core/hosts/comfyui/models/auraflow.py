"""AuraFlow: registers stand before the text. Blocks have to be marked."""

from dataclasses import dataclass
from typing import Any

from ....collect.calls import Layout
from ....families import AURA_FLOW
from ....grid import Grid
from .base import AttentionCall
from .transformer import JointTransformer, block_names


@dataclass(frozen=True)
class AuraFlow(JointTransformer):
    registers: int = 8

    @classmethod
    def of(cls, module: Any) -> "AuraFlow | None":
        from comfy.ldm.aura.mmdit import MMDiT

        if type(module) is not MMDiT:
            return None
        double, single = (len(blocks) for blocks in (module.double_layers, module.single_layers))
        return cls(
            AURA_FLOW.with_patch(module.patch_size),
            block_names("double_block", module.double_layers) + block_names("single_block", module.single_layers),
            marked_blocks=(
                *(("double_block", index) for index in range(double)),
                *(("single_block", index) for index in range(single)),
            ),
            registers=module.register_tokens.shape[1],
        )

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        return self.family.layout(columns, grid, before=self.registers)
