"""Fusion: the token maps of the chosen layers become one map per token, on the largest grid among them.

    C̄ = mean over layers of up(C̄_l),   Ĉ[s, i] = C̄[s, i] / mean_s' C̄[s', i]      (first half of Eq. 9)

where up is bilinear. Without the division START would win everywhere; a mean in place of the paper's sum only
changes a constant that all tokens share. Relative to the paper: `per_layer` divides before the mean over layers,
as the authors' code does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .grid import Grid, bilinear, smooth_token_maps
from .settings import Settings

PER_LAYER_EPSILON = 1e-8
"""What the authors add to a token's spatial mean before they divide by it."""


@dataclass(frozen=True)
class TokenMaps:
    """Fused maps C̄ of one prompt entry.

    values        (B, grid.area, K) fp32 or fp64; K = L tokens, or 2 for [START, rest] of an unconditional entry.
    renormalised  True where every column was already divided by its spatial mean, layer by layer.
    """

    values: Tensor
    grid: Grid
    renormalised: bool = False


class LayerFusion:
    """Mean over layers of the maps of one entry, on the largest grid among them.

    After fusion only one running sum per grid is kept. Per layer (the authors' order) the division by the spatial
    mean happens on the largest grid, which is known when the last layer has come: each layer's map waits for it.
    """

    def __init__(self, settings: Settings, epsilon: float = PER_LAYER_EPSILON) -> None:
        self._settings = settings
        self._epsilon = epsilon
        self._maps: dict[Grid, list[Tensor]] = {}
        self.layers = 0

    @property
    def grids(self) -> set[Grid]:
        return set(self._maps)

    def add(self, maps: Tensor, grid: Grid) -> None:
        """Add one layer's C̄ (B, grid.area, K); the tensor is kept and may be added to."""
        self.layers += 1
        kept = self._maps.setdefault(grid, [])
        if kept and self._settings.renormalise == "after_fusion":
            kept[0] += maps
        else:
            kept.append(maps)

    def result(self, grid: Grid | None = None) -> TokenMaps:
        """The fused maps on `grid`, by default the largest that was added."""
        assert self.layers
        grid = grid or max(self._maps, key=lambda candidate: (candidate.area, candidate))
        total: Tensor | None = None
        for source, kept in self._maps.items():
            for maps in kept:
                maps = self._prepare(bilinear(maps, source, grid), grid)
                total = maps if total is None else total + maps
        assert total is not None
        return TokenMaps(total / self.layers, grid, self._settings.renormalise == "per_layer")

    def _prepare(self, maps: Tensor, grid: Grid) -> Tensor:
        if self._settings.smooth_maps:
            maps = smooth_token_maps(maps, grid)
        if self._settings.renormalise == "per_layer":
            mean = maps.mean(dim=1, keepdim=True) + self._epsilon
            maps = torch.where(mean != 0, maps / mean, maps)
        return maps


def merge_starts(maps: Tensor, start_tokens: Sequence[int]) -> Tensor:
    """Sum the columns of several STARTs (one per prompt chunk) into the first; the others become 0."""
    if len(start_tokens) < 2:
        return maps
    first, *others = sorted(start_tokens)
    merged = maps.clone()
    for other in others:  # not by a list of them, which a GPU would wait for
        merged[..., first] += maps[..., other]
        merged[..., other] = 0
    return merged


def start_and_rest(maps: Tensor, start_tokens: Sequence[int]) -> Tensor:
    """Columns [START, sum of all others] (B, n, 2) of token maps (B, n, L)."""
    start = sum((maps[..., place] for place in start_tokens), torch.zeros_like(maps[..., 0]))
    return torch.stack((start, maps.sum(dim=-1) - start), dim=-1)


def renormalise(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Ĉ (B, n, K): every column over its spatial mean (Eq. 9); a column without mass stays 0.

    `weight` (b, n, 1), b = 1 or B: the share of the entry at each patch; the mean is weighted with it.
    """
    if weight is None:
        mean = values.mean(dim=1, keepdim=True)
    else:
        mean = (values * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
    return torch.where(mean > 0, values / mean, torch.zeros_like(values))
