"""The attention maps of one evaluation of the demo's U-Net, ready for `scfg_core.segment`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers import Transformer2DModel, UNet2DConditionModel
from einops import rearrange
from torch import Tensor, nn

from scfg_core import Grid, LayerMaps
from scfg_core.method.attention import head_mean_attention


class Watch:
    """Queries, keys and grids of the last evaluation, one entry per transformer, in the order they ran."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        self.transformers = [m for m in unet.modules() if isinstance(m, Transformer2DModel)]
        self.grids: dict[nn.Module, Grid] = {}
        self.projections: dict[nn.Module, Tensor] = {}

    def layers(self) -> list[LayerMaps]:
        """Self- and cross-attention of every transformer, averaged over heads (Eq. 8)."""
        out = []
        for transformer in self.transformers:
            block = transformer.transformer_blocks[0]
            own, cross = (self._attention(a) for a in (block.attn1, block.attn2))
            out.append(LayerMaps(own, cross, self.grids[transformer]))
        return out

    def _attention(self, attention: nn.Module) -> Tensor:
        q, k = (
            rearrange(self.projections[to], "b n (h d) -> b h n d", h=attention.heads)
            for to in (attention.to_q, attention.to_k)
        )
        return head_mean_attention(q, k, scale=attention.scale)


@contextmanager
def watch(unet: UNet2DConditionModel) -> Iterator[Watch]:
    """While open, remember what the attentions of `unet` see; on closing, leave it as it was."""
    seen = Watch(unet)

    def note_grid(transformer: nn.Module, args: tuple) -> None:
        seen.grids[transformer] = Grid(*args[0].shape[-2:])

    def note_projection(linear: nn.Module, _: tuple, output: Tensor) -> None:
        seen.projections[linear] = output.detach()

    handles = []
    for transformer in seen.transformers:
        handles.append(transformer.register_forward_pre_hook(note_grid))
        block = transformer.transformer_blocks[0]
        for linear in (block.attn1.to_q, block.attn1.to_k, block.attn2.to_q, block.attn2.to_k):
            handles.append(linear.register_forward_hook(note_projection))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
