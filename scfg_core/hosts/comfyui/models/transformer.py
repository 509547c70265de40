"""How ComfyUI runs transformers: `transformer_options` name the block, joint layers attend once, others twice.

What is known of the families themselves stands in `scfg_core/families`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....collect.calls import Layout
from ....collect.layers import LayerChoice
from ....families import Columns, Family, Text
from ....grid import Grid
from .base import AttentionCall, ModelCall, Site


@dataclass(frozen=True)
class Transformer:
    """A transformer of the host.

    blocks  names of its blocks, in the order in which they run; "single.3" = block 3 of the single ones.
    """

    family: Family
    blocks: tuple[str, ...]
    experimental: bool = True
    takes_frames: bool = True
    marked_blocks: Sequence[tuple[str, int]] = ()

    @property
    def name(self) -> str:
        return self.family.name

    def choose_layers(self, choice: LayerChoice) -> list[str]:
        return self.family.choose_layers(self.blocks, choice)

    def num_columns(self, context: Tensor, extra: Mapping[str, Any]) -> int:
        return context.shape[1]

    def read(self, text: Text) -> Columns:
        return self.family.read(text)

    def layer_of(self, options: dict[str, Any], calls: int) -> str | None:
        if "block_index" not in options:
            return None
        return f"{options.get('block_type', 'block')}.{options['block_index']}"

    def allows_mask(self, mask: Tensor, call: ModelCall) -> bool:
        """The text's own mask, the same for every query."""
        given = call.extra.get("attention_mask")
        own = self.family.masks and isinstance(given, Tensor) and not given.is_floating_point()
        return own and mask.ndim > 1 and mask.shape[-2] == 1

    def grid(self, x: Tensor) -> Grid:
        """Patches of x (b, C, H, W) or (b, C, T, H, W)."""
        return self.family.grid(*x.shape[-2:], frames=x.shape[2] if x.ndim == 5 else 1)


@dataclass(frozen=True)
class JointTransformer(Transformer):
    """Text and patches in one softmax, once per block."""

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        """Text first, then the patches, then those of reference images."""
        references = sum(call.options.get("reference_image_num_tokens", ()))
        return self.family.layout(columns, grid, behind=references)

    def locate(self, call: AttentionCall) -> Site | None:
        if call.repeated:
            return None
        grid = self.grid(call.model.x)
        layout = self.layout(call, self.num_columns(call.model.context, call.model.extra), grid)
        return Site(grid, layout, layout.image)


@dataclass(frozen=True)
class SeparateTransformer(Transformer):
    """Self-attention, then attention to the text."""

    def locate(self, call: AttentionCall) -> Site | None:
        if call.repeated > 1:
            return None
        grid = self.grid(call.model.x)
        if call.repeated == 0:
            return Site(grid, Layout.self_attention(grid))
        columns = self.num_columns(call.model.context, call.model.extra)
        return Site(grid, Layout.cross_attention(columns))


def block_names(kind: str, blocks: Sequence[object]) -> tuple[str, ...]:
    return tuple(f"{kind}.{index}" for index in range(len(blocks)))
