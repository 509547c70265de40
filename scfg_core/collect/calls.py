"""One call of an attention layer, as a host shows it to the collector."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from ..grid import Grid

Key = TypeVar("Key", bound=Hashable)
"""By which a host knows a prompt."""


@dataclass(frozen=True)
class Rows:
    """Rows of a call's batch that belong to the prompt `prompt`; the first of them is its image `first_image`."""

    prompt: Hashable
    rows: slice
    first_image: int = 0


@dataclass(frozen=True)
class Layout:
    """Which keys of a call are what, as the host expects them; what comes is checked against it.

    keys   how many there are in all.
    text   those of the prompt, repeats included; empty in self-attention.
    image  those of the image patches, row-major; empty in cross-attention.
    """

    keys: int
    text: range = range(0)
    image: range = range(0)

    @classmethod
    @lru_cache(maxsize=64)
    def self_attention(cls, grid: Grid) -> "Layout":
        """Every key is a patch."""
        return cls(grid.area, image=range(grid.area))

    @classmethod
    @lru_cache(maxsize=64)
    def cross_attention(cls, tokens: int) -> "Layout":
        """Every key is a token."""
        return cls(tokens, text=range(tokens))

    @classmethod
    def joint(cls, tokens: int, grid: Grid, text_first: bool = True) -> "Layout":
        """Text and image keys in one softmax (DeepFloyd IF, MM-DiT)."""
        keys, n = tokens + grid.area, grid.area
        if text_first:
            return cls(keys, text=range(tokens), image=range(tokens, keys))
        return cls(keys, text=range(n, keys), image=range(n))

    @property
    def is_joint(self) -> bool:
        return len(self.text) > 0 and len(self.image) > 0


@dataclass(frozen=True)
class LayerCall:
    """One call of an attention layer.

    layer   name of the transformer block; its self-attention and its cross-attention share it.
    q, k    (b, H, n, d) and (b, H, m, d), as they enter the softmax: after norms and rotary embeddings.
    rows    whose rows these are; together the whole batch.
    grid    of the n patches.
    layout  of the m keys.
    scale   of q kᵀ; None = d^−½.
    kept    (b, m) bool: keys that take part in the softmax of a row; None = all but the prompts' dead columns.
    """

    layer: str
    q: Tensor
    k: Tensor
    rows: Sequence[Rows]
    grid: Grid
    layout: Layout
    scale: float | None = None
    kept: Tensor | None = None

    @property
    def softmax_scale(self) -> float:
        """What q kᵀ is multiplied by."""
        return self.q.shape[3] ** -0.5 if self.scale is None else self.scale

    def fits(self) -> bool:
        """Whether q and k have the rows, patches and keys that the host expects (no tiling, no merged tokens)."""
        if self.layout.image and len(self.layout.image) != self.grid.area:
            return False
        batch = max((part.rows.stop for part in self.rows), default=0)
        expected_q, expected_k = (batch, self.grid.area), (batch, self.layout.keys)
        heads = self.q.ndim == self.k.ndim == 4 and self.q.shape[1] == self.k.shape[1]
        return (
            heads
            and (self.q.shape[0], self.q.shape[2]) == expected_q
            and ((self.k.shape[0], self.k.shape[2]) == expected_k and self.q.shape[3] == self.k.shape[3])
        )

    def of_prompts(self, wanted: Callable[[Hashable], bool]) -> "LayerCall | None":
        """The rows of the wanted prompts alone, None where there are none; a call that does not fit stays whole."""
        parts = [part for part in self.rows if wanted(part.prompt)]
        if not parts or len(parts) == len(self.rows) or not self.fits():
            return self if parts else None
        rows, first = [], 0
        for part in parts:
            count = part.rows.stop - part.rows.start
            rows.append(replace(part, rows=slice(first, first + count)))
            first += count
        q, k = (_rows(side, parts) for side in (self.q, self.k))
        kept = None if self.kept is None else _rows(self.kept, parts)
        return replace(self, q=q, k=k, rows=rows, kept=kept)


def _rows(batch: Tensor, parts: Sequence[Rows]) -> Tensor:
    if len(parts) == 1:
        return batch[parts[0].rows]
    return torch.cat([batch[part.rows] for part in parts])
