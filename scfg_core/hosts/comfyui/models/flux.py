"""Flux.1, LongCat, Flux.2 and Flux.2 Klein, Chroma: double blocks, then single ones, text first.

Klein's prompts have three template columns before the prompt, nine behind it, and padding up to 512 that the model
attends to; the CONDITIONING's mask names it. Flux.2-dev is padded by zeros on the left. Columns of reference images
follow the image's.
"""

from dataclasses import dataclass
from typing import Any

from .transformer import JointTransformer, block_names

KLEIN_WIDTHS = (7680, 12288)
"""Width of the text of Klein 4B and 9B: three layers of Qwen 3."""


@dataclass(frozen=True)
class Flux(JointTransformer):
    @classmethod
    def of(cls, module: Any) -> "Flux | None":
        from comfy.ldm.chroma.model import Chroma
        from comfy.ldm.flux.model import Flux as Network

        if type(module) not in (Network, Chroma):
            return None
        blocks = block_names("double", module.double_blocks) + block_names("single", module.single_blocks)
        if type(module) is Chroma:
            return cls("Chroma", blocks, module.patch_size, band=(0.2, 0.33))
        if not getattr(module.params, "global_modulation", False):
            return cls("Flux.1", blocks, module.patch_size, band=(0.2, 0.33))
        if module.params.context_in_dim in KLEIN_WIDTHS:
            return cls("Flux.2 Klein", blocks, module.patch_size, starts=3, suffix=9)
        return cls("Flux.2", blocks, module.patch_size)
