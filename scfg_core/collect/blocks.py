"""Transformer blocks whose maps are due: those alike are computed together, one launch for many.

The deeper layers of a U-Net are small and several; on a GPU their maps cost launches, not arithmetic. So a finished
block waits, by reference to its q and k, for others of its sizes, as long as what waits is small.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .calls import LayerCall, Rows
from .columns import Needed, kept_keys
from .operators import SelfHeads

BLOCK_PART = 96
"""A block waits where its q and k take this part of the budget at most …"""

WAITING_PART = 16
"""… and all that wait this part."""


@dataclass(frozen=True)
class Block:
    """A block that has run.

    call    its cross-attention.
    needed  the columns of each of its rows' prompts.
    own     the self-attention, and the rows of it, of each of them; None where S is not needed.
    """

    call: LayerCall
    needed: Sequence[Needed]
    own: Sequence[tuple[LayerCall, slice]] | None

    def bytes(self) -> int:
        """Of q and k."""
        calls = {id(call): call for call in (self.call, *(call for call, _ in self.own or ()))}.values()
        return sum(side.nbytes for call in calls for side in (call.q, call.k))

    def kind(self) -> Hashable:
        """What blocks have in common that are computed together."""
        calls = [self.call, *(call for call, _ in self.own or ())]
        sizes = tuple((call.q.device, call.q.dtype, call.q.shape, call.k.shape, call.scale) for call in calls)
        rows = tuple((part.prompt, part.rows.start, part.rows.stop, part.first_image) for part in self.call.rows)
        own = None if self.own is None else tuple((place.start, place.stop) for _, place in self.own)
        return self.call.grid, sizes, rows, own, self.call.kept is None


@dataclass(frozen=True)
class Blocks:
    """Blocks of one kind, prompt after prompt: of each prompt the rows of the first block, of the second, …"""

    blocks: Sequence[Block]

    @property
    def needed(self) -> Sequence[Needed]:
        return self.blocks[0].needed

    @property
    def call(self) -> LayerCall:
        return self.blocks[0].call

    @cached_property
    def rows(self) -> list[Rows]:
        """Whose rows are where."""
        found, first = [], 0
        for part in self.call.rows:
            stop = first + len(self.blocks) * (part.rows.stop - part.rows.start)
            found.append(Rows(part.prompt, slice(first, stop), part.first_image))
            first = stop
        return found

    @cached_property
    def kept(self) -> Tensor | None:
        """(b, m) bool: text keys that take part; None = all."""
        prompts, places = [columns.prompt for columns in self.needed], [part.rows for part in self.call.rows]
        masks = [kept_keys(prompts, places, block.call) for block in self.blocks]
        parts = [(mask, place) for place in places for mask in masks if mask is not None]
        return _stacked(parts) if parts else None

    @cached_property
    def cross(self) -> tuple[Tensor, Tensor]:
        """q and k of the cross-attentions."""
        return _sides([(block.call, part.rows) for part in self.call.rows for block in self.blocks])

    @cached_property
    def heads(self) -> SelfHeads | None:
        """What S is made of; None where it is not needed."""
        if self.blocks[0].own is None:
            return None
        own = [block.own[number] for number in range(len(self.call.rows)) for block in self.blocks if block.own]
        return SelfHeads(*_sides(own), own[0][0].softmax_scale)


def _sides(parts: Sequence[tuple[LayerCall, slice]]) -> tuple[Tensor, Tensor]:
    """q and k of the rows of some calls."""
    return _stacked([(call.q, rows) for call, rows in parts]), _stacked([(call.k, rows) for call, rows in parts])


def _stacked(parts: Sequence[tuple[Tensor, slice]]) -> Tensor:
    """Rows of some tensors, one after the other: the tensor itself where they are all of one, in their order."""
    whole, stop = parts[0][0], 0
    in_order = all(tensor is whole for tensor, _ in parts)
    for _, rows in parts:
        in_order, stop = in_order and rows.start == stop, rows.stop
    if in_order and stop == whole.shape[0]:
        return whole
    return torch.cat([tensor[rows] for tensor, rows in parts])
