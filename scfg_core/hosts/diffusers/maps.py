"""The attention maps of a diffusers U-Net in one call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...collect.calls import LayerCall
from ...collect.layers import LayerChoice, choose_layers
from ...errors import ShapeError
from ...grid import Grid
from ...method.attention import head_mean_attention
from ...method.segment import LayerMaps
from .models import Part, find_layers
from .schedule import Timestep


def collect_maps(
    unet: nn.Module,
    sample: Tensor,
    timestep: Timestep,
    encoder_hidden_states: Tensor,
    *,
    layers: LayerChoice = "auto",
    added_cond_kwargs: Mapping[str, Tensor] | None = None,
) -> list[LayerMaps]:
    """Run a UNet2DConditionModel once and return the maps of its chosen layers (Eq. 8), first to last.

    sample                 (B, C, H, W), as `unet(sample, timestep, encoder_hidden_states)` takes it.
    encoder_hidden_states  (B, L, d) text embeddings of all B rows.
    layers                 of the two deepest levels with attention: "all", the "last" three of each, or "auto".
    added_cond_kwargs      what SDXL takes beside the text.

    S (B, n, n) and C (B, n, L) are fp32, averaged over heads; where text and image are attended to jointly they are
    two blocks of columns of one softmax. Raises `ShapeError` where the module is no text-conditioned U-Net, or a
    layer attends to other rows or patches than its own.
    """
    found = find_layers(unet)
    chosen = choose_layers([layer.info for layer in found], layers)
    sink = _Maps(Part("cond", slice(0, len(sample)), encoder_hidden_states.shape[1]))
    hooks: list[RemovableHandle] = []
    try:
        for layer in found:
            if layer.info.name in chosen:
                for hook in layer.watch(sink):
                    hooks.append(hook)
        with torch.no_grad():
            more = {} if added_cond_kwargs is None else {"added_cond_kwargs": added_cond_kwargs}
            unet(sample, timestep, encoder_hidden_states=encoder_hidden_states, **more)
    finally:
        for hook in hooks:
            hook.remove()
    return [sink.layer_maps(name) for name in chosen]


@dataclass
class _Maps:
    """Keeps the maps of every layer that it is shown."""

    part: Part
    _self: dict[str, Tensor] = field(default_factory=dict)
    _cross: dict[str, Tensor] = field(default_factory=dict)
    _grids: dict[str, Grid] = field(default_factory=dict)

    def parts(self) -> Sequence[Part]:
        return (self.part,)

    def take(self, call: LayerCall) -> None:
        layer, layout = call.layer, call.layout
        if not call.fits():
            expected, given = (call.grid.area, layout.keys), (call.q.shape[2], call.k.shape[2])
            raise ShapeError(
                f"expected (queries, keys) {expected} of {self.part.rows.stop} rows in {layer}, got {given} of "
                f"{len(call.q)}: remove what merges or tiles tokens"
            )
        maps = head_mean_attention(call.q, call.k, scale=call.scale)
        if layout.image:
            self._self[layer] = maps[:, :, layout.image.start : layout.image.stop]
        if layout.text:
            self._cross[layer] = maps[:, :, layout.text.start : layout.text.stop]
        self._grids[layer] = call.grid

    def skip(self, layer: str) -> None:
        raise ShapeError(f"expected one set of keys for all patches in {layer}, got a mask: remove it")

    def give_up(self, error: Exception) -> None:
        raise error

    def layer_maps(self, layer: str) -> LayerMaps:
        if layer not in self._cross:
            raise ShapeError(
                f"expected attention to text in {layer}, got none: its processor bypasses the layer's projections"
            )
        return LayerMaps(self._self.get(layer), self._cross[layer], self._grids[layer])
