"""Cosmos-Predict2 and Anima: self-attention, then attention to T5's tokens.

Anima's keys are the T5 ids of the prompt, adapted; `</s>` ends them, and zeros fill up to 512: they take
their share of the attention, and own nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .base import Columns, Text
from .transformer import SeparateTransformer, block_names


@dataclass(frozen=True)
class Cosmos(SeparateTransformer):
    @classmethod
    def of(cls, module: Any) -> "Cosmos | None":
        from comfy.ldm.cosmos.predict2 import MiniTrainDIT

        if type(module) is not MiniTrainDIT or module.patch_temporal != 1:
            return None
        return cls("Cosmos-Predict2", block_names("block", module.blocks), module.patch_spatial)


ANIMA_COLUMNS = 512


@dataclass(frozen=True)
class Anima(SeparateTransformer):
    @classmethod
    def of(cls, module: Any) -> "Anima | None":
        from comfy.ldm.anima.model import Anima as Network

        if type(module) is not Network or module.patch_temporal != 1:
            return None
        return cls("Anima", block_names("block", module.blocks), module.patch_spatial)

    def num_columns(self, context: Tensor, extra: Mapping[str, Any]) -> int:
        ids = extra.get("t5xxl_ids")
        return context.shape[1] if ids is None else max(ANIMA_COLUMNS, ids.shape[1])

    def read(self, text: Text) -> Columns:
        """Outside inference mode the host leaves the adapter to the model, and the context is not the keys."""
        ids = text.extra.get("t5xxl_ids")
        if ids is None:
            return super().read(text)
        padded = text.context.new_ones((1, self.num_columns(text.context, text.extra), 1))
        padded[:, ids.shape[1] :] = 0
        return super().read(replace(text, context=padded))
