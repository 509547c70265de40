"""Maps in, regions out: Eq. 8's maps of some layers become a label map and a foreground (Eq. 10, 9, 14).

`segment` is the paper on stored maps of one prompt; `segment_entries` begins with fused maps and lets several
prompt
entries compete for every patch, each with its share of it (`entries`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ShapeError
from ..grid import Grid
from ..precision import compute_dtype, constant
from ..prompt import Prompt
from .assign import assign
from .entries import EntryMaps, PlacedEntry, common_grid, place_entries
from .foreground import foreground, varies, varies_within
from .fusion import LayerFusion, TokenMaps, columns_of_branch, select_columns
from .propagation import StoredAttention, needs_self_attention, propagate
from .settings import Settings

UNOWNED = -1
"""Label of a patch that belongs to no prompt."""


@dataclass(frozen=True)
class LayerMaps:
    """Head-averaged maps of one layer (Eq. 8): S (B, n, n), None where it is not used; C (B, n, L); n = grid.area.

    Raises `ShapeError` where they do not agree.
    """

    self_attention: Tensor | None
    cross_attention: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        n, cross, maps = self.grid.area, self.cross_attention, self.self_attention
        if cross.ndim != 3 or cross.shape[1] != n or cross.shape[2] < 1:
            raise ShapeError(
                f"expected cross_attention (B, {n}, L) for a grid of {self.grid}, got {tuple(cross.shape)}: "
                "pass maps averaged over heads, with the grid of the layer they come from"
            )
        if maps is not None and maps.shape != (cross.shape[0], n, n):
            raise ShapeError(
                f"expected self_attention ({cross.shape[0]}, {n}, {n}), got {tuple(maps.shape)}: "
                "pass the self-attention of the same layer and batch, averaged over heads"
            )


@dataclass(frozen=True)
class Segmentation:
    """Which token owns each patch, and which patches are foreground.

    labels          (B, h, w) int64: label of the winning token, `UNOWNED` (−1) = belongs to no prompt.
    foreground      (B, h, w) bool: m_b of Eq. 14; all True where START says nothing (benchmark = every patch).
    num_labels      labels lie below it; None = read off the labels, which waits for the device.
    finite          (B,) bool: False where a map of the image was not finite; its labels are all −1.
    has_foreground  (B,) bool: False where START did not separate a foreground.
    scores          (B, h·w, K) Ĉ from which the labels were taken, and score_labels: the labels of its K columns in
                    order, one sequence per prompt entry.
    frames          how many lie one below the other in the rows h (`Grid`).
    """

    labels: Tensor
    foreground: Tensor
    num_labels: int | None = None
    finite: Tensor | None = None
    has_foreground: Tensor | None = None
    scores: Tensor | None = None
    score_labels: tuple[tuple[int, ...], ...] = ()
    frames: int = 1

    def __post_init__(self) -> None:
        if self.labels.ndim != 3 or self.labels.shape != self.foreground.shape:
            raise ShapeError(
                "expected labels and foreground of one shape (B, h, w), got "
                f"{tuple(self.labels.shape)} and {tuple(self.foreground.shape)}: "
                "segment the same images on the same grid"
            )

    @property
    def grid(self) -> Grid:
        return Grid(self.labels.shape[1], self.labels.shape[2], self.frames)

    def count_labels(self) -> int:
        """`num_labels`, or one above the highest label."""
        return int(self.labels.max()) + 1 if self.num_labels is None else self.num_labels


def segment(
    cond: Sequence[LayerMaps],
    uncond: Sequence[LayerMaps],
    settings: Settings,
    *,
    start_tokens: Sequence[int] = (0,),
) -> Segmentation:
    """Segment B images from stored maps: Eq. 10, fusion, Eq. 9 and Eq. 14 in one call.

    cond, uncond   the chosen layers of the conditional and the unconditional rows; B and L as in `LayerMaps`.
    start_tokens   indices of START in both prompts, one per chunk; empty = the encoder has none, so every patch is
                   foreground (the benchmark is the mean over all) and `uncond` may be empty.

    Raises `ShapeError` where the layers do not agree in B or L, or START lies outside the prompt.
    """
    positive = EntryMaps(*_fuse(cond, "cond", settings, start_tokens))
    if not start_tokens:
        return segment_entries([positive], [], settings, positive.tokens.grid)
    negative = EntryMaps(*_fuse(uncond, "uncond", settings, start_tokens))
    images, given = (len(maps.tokens.values) for maps in (positive, negative))
    if images != given:
        raise ShapeError(
            f"expected uncond of {images} images, like cond, got {given}: pass both branches of the same images"
        )
    if negative.tokens.grid != positive.tokens.grid:
        raise ShapeError(
            f"expected uncond layers up to the grid of {positive.tokens.grid}, got {negative.tokens.grid}: "
            "pass the same layers for both branches"
        )
    return segment_entries([positive], [negative], settings, positive.tokens.grid)


def segment_entries(
    cond: Sequence[EntryMaps], uncond: Sequence[EntryMaps], settings: Settings, latent: Grid
) -> Segmentation:
    """Segment B images from the fused maps of every prompt entry (`entries` says how they share an image).

    cond     at least one entry, with labels that do not overlap.
    uncond   entries whose maps are [START, rest] under `start_vs_rest`, all tokens under `argmax`; those without
             START do not count. None left: every patch is foreground.
    latent   size of the image in latent cells, in which areas and weights are given.

    Raises `ShapeError` where there is no conditional entry, or the entries do not fit together.
    """
    if not cond:
        raise ShapeError("expected at least one conditional entry, got none: pass the positive prompt's maps")
    grid = common_grid([*cond, *uncond], latent)
    positive = place_entries(cond, latent, grid)
    negative = place_entries([entry for entry in uncond if entry.prompt.start_tokens], latent, grid)
    scores = [entry.scores() for entry in positive]
    labels, finite = _labels(positive, scores), _finite([*positive, *negative])
    labels = torch.where(finite[:, None], labels, constant(UNOWNED, labels.dtype, labels.device))
    if negative:
        mask, separated = _foreground(negative, settings)
        has_foreground = mask.any(dim=1) & separated
        mask = mask >= has_foreground[:, None]  # all of the image where there is none
    else:
        mask, has_foreground = torch.ones_like(labels, dtype=torch.bool), torch.zeros_like(finite)
    return Segmentation(
        labels=labels.unflatten(1, (grid.h, grid.w)),
        foreground=mask.unflatten(1, (grid.h, grid.w)),
        num_labels=max(entry.prompt.labels.stop for entry in positive),
        finite=finite,
        has_foreground=has_foreground,
        scores=scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1),
        score_labels=tuple(entry.prompt.owner_labels for entry in positive),
        frames=grid.frames,
    )


def _labels(entries: Sequence[PlacedEntry], scores: Sequence[Tensor]) -> Tensor:
    """Labels (B, n): Eq. 9, where the best score over the entries that have a share wins; else `UNOWNED`."""
    if len(entries) == 1 and entries[0].share is None:
        return _label(assign(scores[0]), entries[0].prompt)
    best = scores[0].new_full(scores[0].shape[:2], -1.0)
    labels = torch.full_like(best, UNOWNED, dtype=torch.int64)
    for entry, score in zip(entries, scores, strict=True):
        value = score.amax(dim=-1)
        better = (value > best) & entry.support()
        labels = torch.where(better, _label(assign(score), entry.prompt), labels)
        best = torch.where(better, value, best)
    return labels


def _label(column: Tensor, prompt: Prompt) -> Tensor:
    """Label of the token behind each owner column: columns skip the tokens that own nothing."""
    first, *others = prompt.owner_runs
    offset = prompt.first_label + first.start
    label, width, end = column + offset if offset else column, len(first), first.stop
    for run in others:
        label = label + (column >= width) * (run.start - end)
        width, end = width + len(run), run.stop
    return label


def _foreground(entries: Sequence[PlacedEntry], settings: Settings) -> tuple[Tensor, Tensor]:
    """Foreground (B, n) of all negative entries together; whether START says anything, (B,)."""
    if settings.foreground_rule == "argmax":
        scores = [entry.scores() for entry in entries]
        labels = _labels(entries, scores)
        mask = labels != UNOWNED
        start = torch.zeros_like(scores[0][..., 0])
        for entry, score in zip(entries, scores, strict=True):
            first_start = min(entry.prompt.start_tokens)
            mask &= labels != entry.prompt.first_label + first_start
            start = start + score[..., entry.prompt.owners.index(first_start)]
    else:
        total = entries[0].scores()
        for entry in entries[1:]:
            total = total + entry.scores()
        start, rest = total.unbind(dim=-1)
        mask = foreground(start, rest)
    if all(entry.share is None for entry in entries):
        return mask, varies(start)
    support = entries[0].support()
    for entry in entries[1:]:
        support = support | entry.support()
    return mask, varies_within(start, support)


def _finite(entries: Sequence[PlacedEntry]) -> Tensor:
    """(B,) bool: images all of whose maps are finite."""
    total = entries[0].total()
    for entry in entries[1:]:
        total = total + entry.total()
    return total - total == 0


def _fuse(
    layers: Sequence[LayerMaps], branch: str, settings: Settings, start_tokens: Sequence[int]
) -> tuple[TokenMaps, Prompt]:
    """Fused maps of stored layers (Eq. 10), and the prompt that they belong to."""
    sizes = {(layer.cross_attention.shape[0], layer.cross_attention.shape[2]) for layer in layers}
    if len(sizes) != 1:
        raise ShapeError(
            f"expected one (B, L) for all layers of {branch}, and at least one layer, got {sorted(sizes)}: "
            "pass the maps of the chosen layers, all from one evaluation"
        )
    ((_, num_tokens),) = sizes
    prompt = Prompt.plain("cond" if branch == "cond" else "uncond", num_tokens, start_tokens)
    (columns,) = columns_of_branch(prompt.branch, settings)
    fusion = LayerFusion(settings, columns)
    for layer in layers:
        cross = layer.cross_attention.to(compute_dtype(layer.cross_attention))
        fusion.add(_propagate(layer.self_attention, select_columns(cross, columns, prompt), settings), layer.grid)
    return fusion.result(), prompt


def _propagate(maps: Tensor | None, columns: Tensor, settings: Settings) -> Tensor:
    if not needs_self_attention(settings.power_weights):
        return propagate(None, columns, settings.power_weights)
    if maps is None:
        raise ShapeError("expected self_attention for every layer, got None: pass it, or set power_weights=(1,)")
    images = zip(maps, columns, strict=True)
    return torch.stack([propagate(StoredAttention(s), c, settings.power_weights) for s, c in images])
