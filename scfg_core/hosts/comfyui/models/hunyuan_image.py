"""HunyuanImage 2.1: text first, then the glyphs of ByT5 where the prompt quotes some, then the image.

The two refiners of the text run before the blocks and have no index; the glyphs own nothing.
"""

from dataclasses import dataclass
from typing import Any

from ....collect.calls import Layout
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
        return cls("HunyuanImage", blocks, module.patch_size[-1], suffix=1, masks=True)

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        glyphs = call.model.extra.get("txt_byt5")
        first = columns + (0 if glyphs is None else glyphs.shape[1])
        return Layout(first + grid.area, range(columns), range(first, first + grid.area))
