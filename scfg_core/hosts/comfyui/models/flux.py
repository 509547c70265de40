"""Flux.1, LongCat, Flux.2 and Flux.2 Klein, Chroma: double blocks, then single ones.

Padding of Klein's prompts is named by the CONDITIONING's mask.
"""

from dataclasses import dataclass
from typing import Any

from ....families import CHROMA, FLUX_1, flux_2
from .transformer import JointTransformer, block_names


@dataclass(frozen=True)
class Flux(JointTransformer):
    @classmethod
    def of(cls, module: Any) -> "Flux | None":
        from comfy.ldm.chroma.model import Chroma
        from comfy.ldm.flux.model import Flux as Network

        if type(module) not in (Network, Chroma):
            return None
        if type(module) is Chroma:
            family = CHROMA
        elif getattr(module.params, "global_modulation", False):
            family = flux_2(module.params.context_in_dim)
        else:
            family = FLUX_1
        blocks = block_names("double", module.double_blocks) + block_names("single", module.single_blocks)
        return cls(family.with_patch(module.patch_size), blocks)
