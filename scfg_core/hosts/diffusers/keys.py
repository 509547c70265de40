"""Where text and image stand among the keys of a transformer's layers, row by row.

Rows of one prompt are alike, and nothing has to be moved. Prompts of several lengths are not: then the keys of
every row are brought into one order, text, image, whatever else there is; what a shorter row does not have takes no
part in its softmax.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...collect.calls import LayerCall, Layout, Rows
from ...grid import Grid
from ...prompt import Branch, Role
from .watching import SeenAttention

FRAME: tuple[Role, ...] = ("start", "word", "template")
"""Roles that columns of a joint order have, first to last."""


@dataclass(frozen=True)
class RowKeys:
    """The keys of one row: where they stand, and what its text columns are."""

    layout: Layout
    roles: tuple[Role, ...]


@dataclass(frozen=True)
class Keys:
    """The keys of some rows of a call.

    count    how many keys the whole call has.
    layout   of the keys, in the joint order where there is one.
    roles    of the text columns.
    queries  which of the queries are the image's: those of every row, or (b, n) where rows differ.
    first    the first of them, where it is the same in every row.
    order    (b, m) of the call's keys, and which of them the row has; None = as they are.
    """

    grid: Grid
    count: int
    layout: Layout
    roles: tuple[Role, ...]
    queries: range | Tensor
    first: int | None
    order: Tensor | None = None
    present: Tensor | None = None

    @classmethod
    def of(cls, rows: Sequence[RowKeys], grid: Grid, count: int, device: torch.device) -> "Keys":
        """Keys of these rows in a call that has `count`."""
        first = rows[0]
        if all(row == first for row in rows):
            layout = Layout(count, first.layout.text, first.layout.image)
            return cls(grid, count, layout, first.roles, first.layout.image, first.layout.image.start)
        return cls._joined(rows, grid, count, device)

    @classmethod
    def _joined(cls, rows: Sequence[RowKeys], grid: Grid, count: int, device: torch.device) -> "Keys":
        places = [{role: _places(row, role) for role in FRAME} for row in rows]
        widths = {role: max(len(found[role]) for found in places) for role in FRAME}
        text = [
            [place for role in FRAME for place in _padded(found[role], widths[role])]  # type: ignore[index]
            for found in places
        ]
        others = [_others(row, chosen) for row, chosen in zip(rows, text, strict=True)]
        rest = max(len(found) for found in others)
        order = torch.tensor(
            [
                [*chosen, *row.layout.image, *_padded(found, rest)]
                for row, chosen, found in zip(rows, text, others, strict=True)
            ]
        ).to(device)
        columns = sum(widths.values())
        stop = columns + grid.area
        starts = {row.layout.image.start for row in rows}
        roles: tuple[Role, ...] = tuple(role for role in FRAME for _ in range(widths[role]))
        return cls(
            grid,
            count,
            Layout(stop + rest, range(columns), range(columns, stop)),
            roles,
            order[:, columns:stop],
            starts.pop() if len(starts) == 1 else None,
            order.clamp(min=0),
            order >= 0,
        )

    def call(self, layer: str, branch: Branch, rows: slice, seen: SeenAttention) -> LayerCall:
        """The rows of a layer's call, as the collector takes it; one that does not fit stays as it is."""
        images = rows.stop - rows.start
        q, k = seen.q[rows], seen.k[rows]
        part, scale = [Rows(branch, slice(0, images))], seen.scale
        if not q.shape[2] == k.shape[2] == self.count:
            return LayerCall(layer, q, k, part, self.grid, self.layout, scale)
        kept, bias = seen.kept, seen.bias
        kept, bias = (None if mask is None else mask.expand(len(seen.q), -1)[rows] for mask in (kept, bias))
        if isinstance(self.queries, range):
            q = q[:, :, self.queries.start : self.queries.stop]
        else:
            q = _gathered(q, self.queries)
        if self.order is not None and self.present is not None:
            k = _gathered(k, self.order)
            kept = self.present if kept is None else kept.gather(1, self.order) & self.present
            bias = None if bias is None else bias.gather(1, self.order)
        if bias is not None:
            q, k = with_bias(q, k, bias, scale)
        return LayerCall(layer, q, k, part, self.grid, self.layout, scale, kept)


def with_bias(q: Tensor, k: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """q (b, H, n, d) and k (b, H, m, d) with a channel more, so that q kᵀ·scale has `bias` (b, m) added to it.

    Zeros fill up to a multiple of 8 channels.
    """
    room = -(q.shape[3] + 1) % 8
    ones = q.new_ones(*q.shape[:3], 1)
    added = (bias / scale).to(k.dtype)[:, None, :, None].expand(*k.shape[:3], 1)
    return F.pad(torch.cat((q, ones), dim=3), (0, room)), F.pad(torch.cat((k, added), dim=3), (0, room))


def _places(row: RowKeys, role: Role) -> list[int]:
    return [row.layout.text[column] for column, found in enumerate(row.roles) if found == role]


def _padded(places: Sequence[int], length: int) -> list[int]:
    """−1 = the row has no such key."""
    return [*places, *[-1] * (length - len(places))]


def _others(row: RowKeys, text: Sequence[int]) -> list[int]:
    """Keys of the row that are neither owners' nor template columns, nor patches."""
    known = {*text, *row.layout.image}
    return [place for place in range(row.layout.keys) if place not in known]


def _gathered(heads: Tensor, order: Tensor) -> Tensor:
    """(b, H, m, d) in the order (b, k) of every row."""
    return heads.gather(2, order[:, None, :, None].expand(-1, heads.shape[1], -1, heads.shape[3]))
