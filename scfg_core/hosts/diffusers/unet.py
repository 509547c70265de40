"""A diffusers U-Net seen from outside: where its transformer blocks are, and how q and k are caught as they pass.

Nothing here imports diffusers: blocks are known by their parts (`down_blocks`, `transformer_blocks`, `attn1`, …).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import ShapeError, expect
from ...layers import LayerInfo


@dataclass(frozen=True)
class Block:
    """A transformer block with self-attention `attn1`, cross-attention `attn2`; `tower` is given its (h, w)."""

    info: LayerInfo
    tower: nn.Module
    attn1: nn.Module
    attn2: nn.Module


def find_blocks(unet: nn.Module) -> list[Block]:
    """Every watchable transformer block, in the order in which they run.

    The level grows with each down-sampler, so that level 0 is full resolution; the middle block is at the deepest.
    Raises `ShapeError` where the module is no text-conditioned U-Net.
    """
    blocks = [
        Block(LayerInfo(f"{name}.transformer_blocks.{index}", level), tower, block.attn1, block.attn2)
        for name, tower, level in _towers(unet)
        for index, block in enumerate(tower.transformer_blocks)  # type: ignore[arg-type]
        if getattr(block, "attn2", None) is not None and not getattr(block, "only_cross_attention", False)
    ]
    expect(
        len(blocks) > 0,
        ShapeError,
        "a U-Net whose transformer blocks have self-attention (attn1) and cross-attention to text (attn2)",
        type(unet).__name__,
        "pass a text-conditioned UNet2DConditionModel, or a pipeline that has one as .unet",
    )
    return blocks


def _towers(unet: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """Modules with `transformer_blocks`: (name, module, level), in the order in which they run."""
    level = 0
    for index, part in enumerate(getattr(unet, "down_blocks", ())):
        yield from _towers_of(f"down_blocks.{index}", part, level)
        level += getattr(part, "downsamplers", None) is not None
    if getattr(unet, "mid_block", None) is not None:
        yield from _towers_of("mid_block", unet.mid_block, level)  # type: ignore[arg-type]
    for index, part in enumerate(getattr(unet, "up_blocks", ())):
        yield from _towers_of(f"up_blocks.{index}", part, level)
        level -= getattr(part, "upsamplers", None) is not None


def _towers_of(name: str, part: nn.Module, level: int) -> Iterator[tuple[str, nn.Module, int]]:
    for index, tower in enumerate(getattr(part, "attentions", None) or ()):
        if hasattr(tower, "transformer_blocks"):
            yield f"{name}.attentions.{index}", tower, level


_PROJECTIONS = {"to_q": "norm_q", "to_k": "norm_k"}
"""An attention's projections, and the norm that each head's result goes through, where there is one."""


def watch_attention(
    attention: nn.Module, wanted: Callable[[], bool], seen: Callable[[Tensor, Tensor, float], None]
) -> list[RemovableHandle]:
    """Call `seen(q, k, scale)` after every call of `attention` for which `wanted()`: q, k (b, H, n or m, d).

    q and k are what the attention's own `to_q` and `to_k` gave to whichever processor is set, so they are computed
    once, and the processor, its keyword arguments and its output are not touched. A processor that asks neither
    projection is not seen. Raises `ShapeError` where the projections are fused into one.
    """
    expect(
        not getattr(attention, "fused_projections", False),
        ShapeError,
        "attention with separate to_q and to_k",
        "fused projections",
        "call unfuse_qkv_projections() first",
    )
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> RemovableHandle:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            if wanted():
                caught[name] = output

        return getattr(attention, name).register_forward_hook(keep)

    def forget(module: nn.Module, args: Any) -> None:
        caught.clear()

    def tell(module: nn.Module, args: Any, output: Any) -> None:
        if len(caught) == 2:
            q, k = (_split_heads(module, caught[name], norm) for name, norm in _PROJECTIONS.items())
            caught.clear()
            seen(q, k, module.scale)  # type: ignore[arg-type]

    return [
        attention.register_forward_pre_hook(forget),
        *[catch(name) for name in _PROJECTIONS],
        attention.register_forward_hook(tell),
    ]


def _split_heads(attention: nn.Module, projected: Tensor, norm: str) -> Tensor:
    heads = rearrange(projected, "b n (heads d) -> b heads n d", heads=attention.heads)
    normalise = getattr(attention, norm, None)
    return heads if normalise is None else normalise(heads)
