"""The layers of a diffusers U-Net seen from outside: which attend to the text, and what their calls look like.

Nothing here imports diffusers: layers are known by their parts (`down_blocks`, `transformer_blocks`, `add_k_proj`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....collect.calls import LayerCall, Layout, Rows
from ....collect.layers import LayerInfo
from ....errors import ShapeError
from ....grid import Grid
from ..watching import JOINT, SEPARATE, TEXT_ONLY, watch_projections
from .base import Form, Sink


def image_alone(tokens: int, grid: Grid) -> Layout:
    return Layout.self_attention(grid)


def text_alone(tokens: int, grid: Grid) -> Layout:
    return Layout.cross_attention(tokens)


def _show(sink: Sink, layer: str, form: Form, q: Tensor, k: Tensor, grid: Grid, scale: float) -> None:
    parts = sink.parts()
    rows = [Rows(part.branch, part.rows) for part in parts]
    if parts:
        sink.take(LayerCall(layer, q, k, rows, grid, form(parts[0].columns, grid), scale))


def _wanted(sink: Sink) -> Callable[[], bool]:
    return lambda: bool(sink.parts())


@dataclass(frozen=True)
class TransformerBlock:
    """A block with self-attention `attn1`, cross-attention `attn2`; `tower` is given its image (b, c, h, w)."""

    info: LayerInfo
    tower: nn.Module
    attn1: nn.Module
    attn2: nn.Module

    def watch(self, sink: Sink) -> Iterator[RemovableHandle]:
        """Hook the block, hook by hook, so that an error half way loses none."""
        grid, measuring = _measure(self.tower)
        yield measuring

        def observer(form: Form) -> Callable[[Tensor, Tensor, float], None]:
            return lambda q, k, scale: _show(sink, self.info.name, form, q, k, grid(), scale)

        for attention, form in ((self.attn1, image_alone), (self.attn2, text_alone)):
            yield from watch_projections(attention, SEPARATE, _wanted(sink), observer(form), sink.give_up)


@dataclass(frozen=True)
class JointLayer:
    """An attention over [text; image] keys in one softmax (DeepFloyd IF), or over text keys alone."""

    info: LayerInfo
    attention: nn.Module

    @property
    def sees_image(self) -> bool:
        return not getattr(self.attention, "only_cross_attention", False)

    def watch(self, sink: Sink) -> Iterator[RemovableHandle]:
        """Hook the layer, hook by hook, so that an error half way loses none."""
        grid, measuring = _measure(self.attention)
        yield measuring

        def joint(q: Tensor, text: Tensor, image: Tensor, scale: float) -> None:
            _show(sink, self.info.name, Layout.joint, q, torch.cat((text, image), dim=2), grid(), scale)

        def text_only(q: Tensor, text: Tensor, scale: float) -> None:
            _show(sink, self.info.name, text_alone, q, text, grid(), scale)

        projections, observe = (JOINT, joint) if self.sees_image else (TEXT_ONLY, text_only)
        yield from watch_projections(self.attention, projections, _wanted(sink), observe, sink.give_up)


UNetLayer = TransformerBlock | JointLayer


def find_layers(unet: nn.Module) -> list[UNetLayer]:
    """Every watchable layer, in the order in which they run: transformer blocks, or layers with joint attention.

    Joint layers that see the text alone are left out, unless there are no others. The level grows with each
    down-sampler, so that level 0 is full resolution; the middle block is at the deepest.
    Raises `ShapeError` where the module is no text-conditioned U-Net.
    """
    parts = list(_parts(unet))
    joint = [
        JointLayer(LayerInfo(name, level), part)
        for name, part, level in parts
        if getattr(part, "add_k_proj", None) is not None
    ]
    layers: list[UNetLayer] = [*_blocks(parts), *([layer for layer in joint if layer.sees_image] or joint)]
    if not layers:
        raise ShapeError(
            "expected a U-Net whose transformer blocks have self-attention (attn1) and cross-attention to text "
            f"(attn2), or that attends to text and image jointly (add_k_proj), got {type(unet).__name__}: "
            "pass a text-conditioned UNet2DConditionModel, or a pipeline that has one as .unet"
        )
    return layers


def find_blocks(unet: nn.Module) -> list[TransformerBlock]:
    """The transformer blocks alone, in the order in which they run; [] in a U-Net with joint attention."""
    return list(_blocks(list(_parts(unet))))


def _blocks(parts: list[tuple[str, nn.Module, int]]) -> Iterator[TransformerBlock]:
    for name, tower, level in parts:
        for index, block in enumerate(getattr(tower, "transformer_blocks", ())):
            if getattr(block, "attn2", None) is not None and not getattr(block, "only_cross_attention", False):
                info = LayerInfo(f"{name}.transformer_blocks.{index}", level)
                yield TransformerBlock(info, tower, block.attn1, block.attn2)


def _parts(unet: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """Every block's `attentions`: (name, module, level), in the order in which they run."""
    level = 0
    for index, part in enumerate(getattr(unet, "down_blocks", ())):
        yield from _parts_of(f"down_blocks.{index}", part, level)
        level += getattr(part, "downsamplers", None) is not None
    if getattr(unet, "mid_block", None) is not None:
        yield from _parts_of("mid_block", unet.mid_block, level)  # type: ignore[arg-type]
    for index, part in enumerate(getattr(unet, "up_blocks", ())):
        yield from _parts_of(f"up_blocks.{index}", part, level)
        level -= getattr(part, "upsamplers", None) is not None


def _parts_of(name: str, part: nn.Module, level: int) -> Iterator[tuple[str, nn.Module, int]]:
    for index, attention in enumerate(getattr(part, "attentions", None) or ()):
        yield f"{name}.attentions.{index}", attention, level


def _measure(module: nn.Module) -> tuple[Callable[[], Grid], RemovableHandle]:
    """The (h, w) of what `module` was last given, (b, c, h, w), and the hook that reads it."""
    last: list[Grid] = []

    def measure(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        features = args[0] if args else kwargs["hidden_states"]
        last[:] = [Grid(features.shape[-2], features.shape[-1])]

    return lambda: last[0], module.register_forward_pre_hook(measure, with_kwargs=True)
