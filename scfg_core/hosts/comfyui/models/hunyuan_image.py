"""HunyuanImage 2.1. The two refiners of the text run before the blocks and have no index."""

from dataclasses import dataclass
from typing import Any

from ....collect.calls import Layout
from ....families import HUNYUAN_IMAGE
from ....grid import Grid
from .base import AttentionCall
from .transformer import JointTransformer, block_names


@dataclass(frozen=True)
class HunyuanImage(JointTransformer):
    @classmethod
    def of(cls, module: Any) -> "HunyuanImage | None":
        from comfy.ldm.hunyuan_video.model import HunyuanVideo

        if type(module) is not HunyuanVideo or len(module.patch_size) != 2:
            return None
        blocks = block_names("double", module.double_blocks) + block_names("single", module.single_blocks)
        return cls(HUNYUAN_IMAGE.with_patch(module.patch_size[-1]), blocks)

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        glyphs = call.model.extra.get("txt_byt5")
        return self.family.layout(columns, grid, between=0 if glyphs is None else glyphs.shape[1])
