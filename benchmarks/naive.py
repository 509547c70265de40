"""S-CFG as one writes it first: every head's map at once, every layer's maps kept, powers of S formed.

Only to compare with: the arithmetic is Eq. 8 to 13 of the paper, taken literally.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from scfg_core import EntryMaps, Grid, Prompt, Settings, TokenMaps, ratio_map, segment_entries
from scfg_core.method.fusion import start_and_rest

POWERS = 4
GIB = 2**30
LAYERS = {"sd15": ((4, 8, 5), (8, 8, 1)), "sdxl": ((2, 10, 10), (4, 20, 60))}
"""Of every grid of the two deepest levels: latent sides per grid side, heads, layers."""


def maps_bytes(name: str, side: int) -> int:
    """Of a layout at a latent of side²: all S of two rows in fp32, and one layer's scores and shares."""
    tokens = [((side // shrink) ** 2, heads, layers) for shrink, heads, layers in LAYERS[name]]
    return sum(2 * layers * n**2 * 4 for n, _, layers in tokens) + max(
        2 * 2 * heads * n**2 * 4 for n, heads, _ in tokens
    )


def naive_bytes(n: int, heads: int) -> int:
    """Of one layer with n patches: all heads' scores and shares of two rows in fp32, and their mean."""
    return 2 * (2 * heads + 1) * n**2 * 4


def powers_flop(name: str, side: int) -> int:
    """Operations of an evaluation that form S², S³, S⁴ of two rows."""
    return sum(2 * layers * (POWERS - 1) * 2 * ((side // shrink) ** 2) ** 3 for shrink, _, layers in LAYERS[name])


def head_mean(q: Tensor, k: Tensor) -> Tensor:
    """Eq. 8 with all heads at once: q (b, H, n, d), k (b, H, m, d) → (b, n, m) fp32."""
    scores = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    return torch.softmax(scores, dim=-1).mean(dim=1)


def propagated(own: Tensor, cross: Tensor) -> Tensor:
    """Eq. 10 by powers of S: n³ each."""
    power, total = own, own @ cross
    for _ in range(POWERS - 1):
        power = power @ own
        total = total + power @ cross
    return total / POWERS


@dataclass
class NaiveMaps:
    """Maps of every layer of an evaluation; rows are [unconditional; conditional] unless `cond_first`."""

    own: dict[str, Tensor] = field(default_factory=dict)
    cross: dict[str, Tensor] = field(default_factory=dict)
    grids: dict[str, Grid] = field(default_factory=dict)

    def see(self, layer: str, q: Tensor, k: Tensor, grid: Grid, kind: str) -> None:
        """Rows of a layer; a second call adds to them, for a host that runs the prompts one after the other."""
        kept, maps = self.own if kind == "attn1" else self.cross, head_mean(q, k)
        kept[layer] = torch.cat((kept[layer], maps)) if layer in kept else maps
        self.grids[layer] = grid

    def ratio(self, cond: Tensor, uncond: Tensor, scale: float, cond_first: bool) -> Tensor:
        """r of Eq. 13 (B, 1, H, W)."""
        largest = max(self.grids.values(), key=lambda grid: grid.area)
        total = sum(
            self._resized(propagated(own, self.cross[layer]), self.grids[layer], largest)
            for layer, own in self.own.items()
        )
        assert isinstance(total, Tensor)
        halves = (total / len(self.own)).chunk(2)
        text, empty = halves if cond_first else halves[::-1]
        latent = Grid(cond.shape[2], cond.shape[3])
        segmentation = segment_entries(
            [EntryMaps(TokenMaps(text, largest), Prompt.plain("cond", text.shape[2]))],
            [EntryMaps(TokenMaps(start_and_rest(empty, (0,)), largest), Prompt.plain("uncond", empty.shape[2]))],
            Settings(),
            latent,
        )
        return ratio_map(cond - uncond, segmentation, Settings(), scale)

    def _resized(self, maps: Tensor, source: Grid, target: Grid) -> Tensor:
        planes = maps.transpose(1, 2).unflatten(-1, (source.h, source.w))
        planes = F.interpolate(planes, size=(target.h, target.w), mode="bilinear", align_corners=False)
        return planes.flatten(2).transpose(1, 2)
