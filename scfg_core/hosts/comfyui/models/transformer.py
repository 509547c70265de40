"""What transformers have in common: blocks of one size that attend to patches and text, and text without START.

Blocks attend to both at once ("joint", `JointTransformer`), or to the patches and then to the text
(`SeparateTransformer`). Which layers and roles serve best awaits real weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ....collect.calls import Layout
from ....collect.layers import BAND, BAND_LAYERS, LayerChoice, choose_by_depth
from ....grid import Grid
from ....prompt import Role
from .base import AttentionCall, Columns, ModelCall, Site, Text


@dataclass(frozen=True)
class Transformer:
    """A transformer over patches of `patch`×`patch` latent cells, frame by frame.

    blocks   names of its blocks, in the order in which they run; "single.3" = block 3 of the single ones.
    starts   how many of its first text columns serve as START: the attention of every prompt rests on them.
    suffix   how many columns of the prompt's template stand behind the prompt.
    masks    whether padding of the text is masked in the attention.
    band     part of its depth in which "auto" chooses layers, and how many at most.
    """

    name: str
    blocks: tuple[str, ...]
    patch: int = 2
    starts: int = 0
    suffix: int = 0
    masks: bool = False
    band: tuple[float, float] = BAND
    band_layers: int = BAND_LAYERS
    experimental: bool = True
    takes_frames: bool = True
    marked_blocks: Sequence[tuple[str, int]] = ()

    def choose_layers(self, choice: LayerChoice) -> list[str]:
        return choose_by_depth(self.blocks, choice, self.band, self.band_layers)

    def num_columns(self, context: Tensor, extra: Mapping[str, Any]) -> int:
        return context.shape[1]

    def read(self, text: Text) -> Columns:
        """Columns of exact zeros, and those outside the encoder's mask, are padding; the first and last others are
        the template's; where nothing would be left, everything is a word."""
        zeros = _all_images(text.context == 0)
        padding = [zero or not kept for zero, kept in zip(zeros, _kept(text.mask, len(zeros)), strict=True)]
        dead = [not kept for kept in _kept(self._model_mask(text), len(zeros))]
        real = [column for column, padded in enumerate(padding) if not padded]
        first = len(zeros) - len(text.words)
        if first > 0:
            first = real[0] if real else 0
        template = self._template(text, real, first)
        roles: list[Role] = [
            "dead" if dead[column] else "null" if padding[column] else "template" if column in template else "word"
            for column in range(len(zeros))
        ]
        if "word" not in roles:
            roles = [
                "dead" if dead[column] else "null" if padding[column] and real else "word"
                for column in range(len(zeros))
            ]
        for column in (*real[: self.starts], *(start + first for start in text.starts)):
            if 0 <= column < len(roles) and roles[column] != "dead":
                roles[column] = "start"
        return Columns(tuple(roles), first)

    def _template(self, text: Text, real: Sequence[int], first: int) -> set[int]:
        """Template columns: those of no word where the encoder named the words, else the family's last ones."""
        if not self.suffix:
            return set()
        if text.words:
            return {column for column in real if not _names_word(text.words, column - first)}
        return set(real[-self.suffix :])

    def _model_mask(self, text: Text) -> Tensor | None:
        return text.extra.get("attention_mask") if self.masks else None

    def layer_of(self, options: dict[str, Any], calls: int) -> str | None:
        if "block_index" not in options:
            return None
        return f"{options.get('block_type', 'block')}.{options['block_index']}"

    def allows_mask(self, mask: Tensor, call: ModelCall) -> bool:
        """The text's own mask, the same for every query."""
        given = call.extra.get("attention_mask")
        own = self.masks and isinstance(given, Tensor) and not given.is_floating_point()
        return own and mask.ndim > 1 and mask.shape[-2] == 1

    def grid(self, x: Tensor) -> Grid:
        """Patches of x (b, C, H, W) or (b, C, T, H, W); the host pads the last of them."""
        frames = x.shape[2] if x.ndim == 5 else 1
        h, w = (-(-side // self.patch) for side in x.shape[-2:])
        return Grid(frames * h, w, frames)


@dataclass(frozen=True)
class JointTransformer(Transformer):
    """Text and patches in one softmax, once per block."""

    def layout(self, call: AttentionCall, columns: int, grid: Grid) -> Layout:
        """Text first, then the patches, then those of reference images."""
        references = sum(call.options.get("reference_image_num_tokens", ()))
        joint = Layout.joint(columns, grid)
        return Layout(joint.keys + references, joint.text, joint.image)

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


def _all_images(cells: Tensor) -> list[bool]:
    """Whether all cells of a column (b, L, d) are True, in every image."""
    return cells.all(dim=-1).all(dim=0).tolist()


def _kept(mask: Tensor | None, length: int) -> list[bool]:
    """Which columns any image keeps; a mask of another length says nothing."""
    if mask is None or mask.is_floating_point() or mask.shape[-1] != length:
        return [True] * length
    return (mask.reshape(-1, length) != 0).any(dim=0).tolist()


def _names_word(words: Sequence[int], token: int) -> bool:
    return 0 <= token < len(words) and words[token] >= 0
