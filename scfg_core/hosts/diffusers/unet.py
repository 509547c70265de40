"""A diffusers U-Net seen from outside: which layers attend to the text, and what each of them shows.

Nothing here imports diffusers: layers are known by their parts (`down_blocks`, `transformer_blocks`, `add_k_proj`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import ShapeError, expect
from ...grid import Grid
from ...layers import LayerInfo
from .watching import JOINT, TEXT_ONLY, watch_attention, watch_projections

__all__ = ["Block", "JointLayer", "Layer", "Sink", "find_blocks", "find_layers", "watch_attention"]


class Sink(Protocol):
    """What becomes of q and k: `feed("observe_self", layer, q, k, grid, scale=…)`, while `wanted()`.

    `give_up` hears of an error of ours; the layer's own output is computed all the same.
    """

    def wanted(self) -> bool: ...

    def feed(self, kind: str, layer: str, q: Tensor, k: Tensor, grid: Grid, **more: Any) -> None: ...

    def give_up(self, error: Exception) -> None: ...


@dataclass(frozen=True)
class Block:
    """A transformer block with self-attention `attn1`, cross-attention `attn2`; `tower` is given its (h, w)."""

    info: LayerInfo
    tower: nn.Module
    attn1: nn.Module
    attn2: nn.Module

    def watch(self, sink: Sink) -> Iterator[RemovableHandle]:
        """Hook the block, hook by hook, so that an error half way loses none."""
        grid, measuring = _measure(self.tower)
        yield measuring

        def observer(kind: str) -> Callable[[Tensor, Tensor, float], None]:
            return lambda q, k, scale: sink.feed(kind, self.info.name, q, k, grid(), scale=scale)

        yield from watch_attention(self.attn1, sink.wanted, observer("observe_self"), sink.give_up)
        yield from watch_attention(self.attn2, sink.wanted, observer("observe_cross"), sink.give_up)


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
            length = text.shape[2]
            spans = {"text": slice(0, length), "image": slice(length, length + image.shape[2])}
            keys = torch.cat((text, image), dim=2)
            sink.feed("observe_joint", self.info.name, q, keys, grid(), scale=scale, **spans)

        def text_only(q: Tensor, text: Tensor, scale: float) -> None:
            sink.feed("observe_cross", self.info.name, q, text, grid(), scale=scale)

        projections, observe = (JOINT, joint) if self.sees_image else (TEXT_ONLY, text_only)
        yield from watch_projections(self.attention, projections, sink.wanted, observe, sink.give_up)


Layer = Block | JointLayer


def find_layers(unet: nn.Module) -> list[Layer]:
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
    layers = [*_blocks(parts), *([layer for layer in joint if layer.sees_image] or joint)]
    expect(
        len(layers) > 0,
        ShapeError,
        "a U-Net whose transformer blocks have self-attention (attn1) and cross-attention to text (attn2), "
        "or that attends to text and image jointly (add_k_proj)",
        type(unet).__name__,
        "pass a text-conditioned UNet2DConditionModel, or a pipeline that has one as .unet",
    )
    return layers


def find_blocks(unet: nn.Module) -> list[Block]:
    """The transformer blocks alone, in the order in which they run; none in a U-Net with joint attention."""
    return list(_blocks(list(_parts(unet))))


def _blocks(parts: list[tuple[str, nn.Module, int]]) -> Iterator[Block]:
    for name, tower, level in parts:
        for index, block in enumerate(getattr(tower, "transformer_blocks", ())):
            if getattr(block, "attn2", None) is not None and not getattr(block, "only_cross_attention", False):
                info = LayerInfo(f"{name}.transformer_blocks.{index}", level)
                yield Block(info, tower, block.attn1, block.attn2)


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
