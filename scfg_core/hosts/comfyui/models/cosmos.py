"""Cosmos-Predict2 and Anima, whose T5 ids are an argument of their own."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ....families import ANIMA, COSMOS, Columns, Text
from .transformer import SeparateTransformer, block_names


@dataclass(frozen=True)
class Cosmos(SeparateTransformer):
    @classmethod
    def of(cls, module: Any) -> "Cosmos | None":
        from comfy.ldm.cosmos.predict2 import MiniTrainDIT

        if type(module) is not MiniTrainDIT or module.patch_temporal != 1:
            return None
        return cls(COSMOS.with_patch(module.patch_spatial), block_names("block", module.blocks))


ANIMA_COLUMNS = 512


@dataclass(frozen=True)
class Anima(SeparateTransformer):
    @classmethod
    def of(cls, module: Any) -> "Anima | None":
        from comfy.ldm.anima.model import Anima as Network

        if type(module) is not Network or module.patch_temporal != 1:
            return None
        return cls(ANIMA.with_patch(module.patch_spatial), block_names("block", module.blocks))

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
