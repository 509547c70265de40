"""Fusion: the token maps of the chosen layers become one map per token, on the largest grid among them.

    C̄ = mean over layers of up(C̄_l)

where up is bilinear. Relative to the paper: a mean in place of a sum changes a constant that all tokens share, and
`per_layer` divides every layer's map by its spatial mean before the mean over layers, as the authors' code does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from ..grid import Grid, bilinear, smooth_token_maps
from ..prompt import Branch, Prompt
from .assign import renormalise
from .settings import Settings

Columns = Literal["tokens", "start_and_rest"]
"""What is kept of C (B, n, L): every token that may own patches, for Eq. 9, or [START, sum of all others], for Eq.
14."""

PER_LAYER_EPSILON: dict[Columns, float] = {"tokens": 1e-8, "start_and_rest": 0.0}
"""What the authors add to a column's spatial mean before they divide by it."""


def columns_of_branch(branch: Branch, settings: Settings) -> tuple[Columns, ...]:
    """What a branch needs: labels come from the conditional rows, the foreground from the unconditional ones."""
    if branch == "cond" or settings.foreground_rule == "argmax":
        return ("tokens",)
    return ("start_and_rest",) if branch == "uncond" else ("tokens", "start_and_rest")


def select_columns(cross: Tensor, columns: Columns, prompt: Prompt) -> Tensor:
    """The `columns` (B, n, K) of C (B, n, L), K = len(prompt.owners) or 2."""
    if columns == "start_and_rest":
        return start_and_rest(cross, prompt.start_tokens)
    merged = merge_starts(cross, prompt.start_tokens)
    if prompt.owner_runs == (range(prompt.num_tokens),):
        return merged
    return torch.cat([merged[..., run.start : run.stop] for run in prompt.owner_runs], dim=-1)


@dataclass(frozen=True)
class TokenMaps:
    """Fused maps C̄ of one prompt.

    values        (B, grid.area, K) fp32 or fp64; K = L tokens, or 2 for [START, sum of all others].
    renormalised  True where every column was already divided by its spatial mean, layer by layer.
    """

    values: Tensor
    grid: Grid
    renormalised: bool = False

    def scores(self) -> Tensor:
        """Ĉ (B, grid.area, K)."""
        return self.values if self.renormalised else renormalise(self.values)


class LayerFusion:
    """Mean over layers of the maps of one prompt, on the largest grid among them.

    After fusion only one running sum per grid is kept. Per layer (the authors' order) the division by the spatial
    mean happens on the largest grid, which is known once the last layer has run: every layer's map is kept until
    then.
    """

    def __init__(self, settings: Settings, columns: Columns = "tokens") -> None:
        self._settings = settings
        self._epsilon = PER_LAYER_EPSILON[columns]
        self._maps: dict[Grid, list[Tensor]] = {}
        self.layers = 0

    @property
    def grids(self) -> set[Grid]:
        return set(self._maps)

    def add(self, maps: Tensor, grid: Grid, layers: int = 1) -> None:
        """Add C̄ of some layers (layers·B, grid.area, K), layer after layer; it is kept and may be added to."""
        self.layers += layers
        kept = self._maps.setdefault(grid, [])
        if self._settings.renormalise != "after_fusion":
            kept += maps.chunk(layers)
            return
        total = maps if layers == 1 else maps.unflatten(0, (layers, -1)).sum(dim=0)
        if kept:
            kept[0] += total
        else:
            kept.append(total)

    def result(self) -> TokenMaps:
        """The fused maps on the largest grid that was added. There must be at least one layer."""
        grid = max(self._maps, key=lambda candidate: (candidate.area, candidate))
        maps = (
            self._prepare(bilinear(one, source, grid), grid) for source, kept in self._maps.items() for one in kept
        )
        total = reduce(torch.add, maps)
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
    for other in others:  # one by one: indexing with a list would make a GPU wait
        merged[..., first] += maps[..., other]
        merged[..., other] = 0
    return merged


def start_and_rest(maps: Tensor, start_tokens: Sequence[int]) -> Tensor:
    """Columns [START, sum of all others] (B, n, 2) of token maps (B, n, L)."""
    if not start_tokens:
        start = torch.zeros_like(maps[..., 0])
    else:
        start = sum((maps[..., place] for place in start_tokens[1:]), maps[..., start_tokens[0]])
    return torch.stack((start, maps.sum(dim=-1) - start), dim=-1)
