"""Eq. 9 and Eq. 14: from token maps to a label map and a foreground.

    i_s = argmax_i Ĉ[s, i]                                               (Eq. 9; lowest index on a tie)
    m_b[s] = 1 where Ĉ_START[s] < Ĉ_rest[s], in the unconditional rows   (Eq. 14; a tie is background)

Ĉ are maps divided by their spatial mean (`fusion`). Several prompt entries compete per patch, each with its share
of it (`entries`); one entry over the whole picture is the paper's case.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor

from .entries import EntryMaps, PlacedEntry, common_grid, place_entries
from .errors import ShapeError, expect
from .fusion import PER_LAYER_EPSILON, LayerFusion, TokenMaps, merge_starts, start_and_rest
from .grid import Grid
from .precision import compute_dtype
from .propagation import StoredAttention, needs_self_attention, propagate
from .settings import Settings

UNOWNED = -1
"""Label of a patch that belongs to no prompt."""

TIE = 5e-6
"""Relative difference below which two scores are a tie: rounding must not choose among tokens that are alike."""

SILENT_START_SPREAD = 1e-3
"""A START map whose (max − min) is below this share of its mean says nothing of foreground."""


@dataclass(frozen=True)
class LayerMaps:
    """Head-averaged maps of one layer (Eq. 8): S (B, n, n), None where it is not used; C (B, n, L); n = grid.area.

    Raises `ShapeError` where they do not agree.
    """

    self_attention: Tensor | None
    cross_attention: Tensor
    grid: Grid

    def __post_init__(self) -> None:
        n, cross, own = self.grid.area, self.cross_attention, self.self_attention
        expect(
            cross.ndim == 3 and cross.shape[1] == n and cross.shape[2] >= 1,
            ShapeError,
            f"cross_attention (B, {n}, L) for a grid of {self.grid}",
            tuple(cross.shape),
            "pass maps averaged over heads, with the grid of the layer they come from",
        )
        expect(
            own is None or own.shape == (cross.shape[0], n, n),
            ShapeError,
            f"self_attention ({cross.shape[0]}, {n}, {n})",
            None if own is None else tuple(own.shape),
            "pass the self-attention of the same layer and batch, averaged over heads",
        )


@dataclass(frozen=True)
class Segmentation:
    """Which token owns each patch, and which patches are foreground.

    labels          (B, h, w) int64: index of the winning token, `UNOWNED` (−1) = belongs to no prompt.
    foreground      (B, h, w) bool: m_b of Eq. 14; all True where START says nothing (benchmark = every patch).
    num_labels      labels lie below it; None = read off the labels, which waits for the device.
    finite          (B,) bool: False where a map of the image was not finite; its labels are all −1.
    has_foreground  (B,) bool: False where START said nothing.
    scores          (B, h·w, K) Ĉ from which the labels were taken; scored: the labels of its K columns, in order,
                    a range for every entry.
    """

    labels: Tensor
    foreground: Tensor
    num_labels: int | None = None
    finite: Tensor | None = None
    has_foreground: Tensor | None = None
    scores: Tensor | None = None
    scored: tuple[range, ...] = ()

    def __post_init__(self) -> None:
        expect(
            self.labels.ndim == 3 and self.labels.shape == self.foreground.shape,
            ShapeError,
            "labels and foreground of one shape (B, h, w)",
            f"{tuple(self.labels.shape)} and {tuple(self.foreground.shape)}",
            "segment the same images on the same grid",
        )

    @property
    def grid(self) -> Grid:
        return Grid(self.labels.shape[1], self.labels.shape[2])

    def count_labels(self) -> int:
        """`num_labels`, or one above the highest label."""
        return int(self.labels.max()) + 1 if self.num_labels is None else self.num_labels


def segment_entries(
    cond: Sequence[EntryMaps], uncond: Sequence[EntryMaps], settings: Settings, latent: Grid
) -> Segmentation:
    """Segment B images from the fused maps of every prompt entry (`entries` says how they share a picture).

    cond     at least one entry; its labels begin at `first_label`, else after those of the entry before it.
    uncond   entries whose maps are [START, rest] under `start_vs_rest`, all L tokens under `argmax`;
             those without START are not asked. None left: every patch is foreground.
    latent   size of the picture in latent cells, in which areas and weights are given.
    """
    expect(len(cond) > 0, ShapeError, "at least one conditional entry", "none", "pass the positive prompt's maps")
    grid = common_grid([*cond, *uncond], latent)
    placed = place_entries(cond, latent, grid)
    labels, finite, scores = _assign(placed)
    scored = tuple(label_ranges(placed))
    speaking = [entry for entry in uncond if entry.start_tokens]
    if speaking:
        negatives = place_entries(speaking, latent, grid)
        foreground, negatives_finite = _foreground(negatives, settings)
        finite = finite & negatives_finite
    else:
        foreground = torch.zeros_like(labels, dtype=torch.bool)
    has_foreground = reduce(foreground, "b n -> b", torch.any)
    foreground = foreground | ~has_foreground[:, None]
    labels = torch.where(finite[:, None], labels, UNOWNED)
    return Segmentation(
        labels=rearrange(labels, "b (h w) -> b h w", h=grid.h),
        foreground=rearrange(foreground, "b (h w) -> b h w", h=grid.h),
        num_labels=max(labels.stop for labels in scored),
        finite=finite,
        has_foreground=has_foreground,
        scores=scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1),
        scored=scored,
    )


def label_ranges(entries: Sequence[PlacedEntry]) -> Iterator[range]:
    """The labels of every entry's tokens."""
    following = 0
    for entry in entries:
        first = following if entry.first_label is None else entry.first_label
        following = first + entry.maps.shape[2]
        yield range(first, following)


def winners(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Best value and its token (…,) of scores (…, K) ≥ 0; the lowest of those that are tied."""
    best = scores.amax(dim=-1)
    tied = scores >= best[..., None] * (1 - TIE)
    return best, tied.to(torch.uint8).argmax(dim=-1)


def _assign(entries: Sequence[PlacedEntry]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Labels (B, n) of the best (value, token) over the entries, finite images (B,), and each entry's Ĉ."""
    first = entries[0].maps
    best = first.new_full(first.shape[:2], -1.0)
    labels = torch.full_like(best, UNOWNED, dtype=torch.int64)
    finite = torch.ones(first.shape[0], dtype=torch.bool, device=first.device)
    scores: list[Tensor] = []
    for entry, own in zip(entries, label_ranges(entries), strict=True):
        scores.append(entry.competing())
        value, token = winners(scores[-1])
        better = (value > best) & entry.supported()
        labels = torch.where(better, token + own.start, labels)
        best = torch.where(better, value, best)
        finite = finite & entry.finite()
    return labels, finite, scores


def _foreground(entries: Sequence[PlacedEntry], settings: Settings) -> tuple[Tensor, Tensor]:
    """Foreground (B, n), empty where START says nothing, and which images are finite (B,)."""
    if settings.foreground_rule == "argmax":
        labels, finite, _ = _assign(entries)
        foreground = labels != UNOWNED
        for entry, own in zip(entries, label_ranges(entries), strict=True):
            foreground &= labels != own.start + min(entry.start_tokens)
        starts = [entry.competing()[..., min(entry.start_tokens)] for entry in entries]
        return foreground & _speaks(torch.stack(starts).sum(dim=0), entries), finite
    start, rest = torch.stack([entry.competing() for entry in entries]).sum(dim=0).unbind(dim=-1)
    finite = torch.stack([entry.finite() for entry in entries]).all(dim=0)
    return (start < rest) & _speaks(start, entries), finite


def _speaks(start: Tensor, entries: Sequence[PlacedEntry]) -> Tensor:
    """(B, 1) bool: whether START's map (B, n) varies enough, where there is an entry, to tell foreground from
    background.
    """
    covered = entries[0].supported()
    for entry in entries[1:]:
        covered = covered | entry.supported()
    covered = covered.expand_as(start)
    highest = torch.where(covered, start, -torch.inf).amax(dim=1)
    lowest = torch.where(covered, start, torch.inf).amin(dim=1)
    mean = torch.where(covered, start, 0.0).sum(dim=1) / covered.sum(dim=1).clamp(min=1)
    return (highest - lowest >= SILENT_START_SPREAD * mean)[:, None]


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
    _check_layers(cond, "cond", start_tokens)
    labels = EntryMaps(_fuse(cond, settings, True, start_tokens), tuple(start_tokens))
    negatives: list[EntryMaps] = []
    if start_tokens:
        _check_layers(uncond, "uncond", start_tokens)
        expect(
            uncond[0].cross_attention.shape[0] == cond[0].cross_attention.shape[0],
            ShapeError,
            f"uncond of {cond[0].cross_attention.shape[0]} images, like cond",
            f"{uncond[0].cross_attention.shape[0]}",
            "pass both branches of the same images",
        )
        whole = settings.foreground_rule == "argmax"
        negatives.append(EntryMaps(_fuse(uncond, settings, whole, start_tokens), tuple(start_tokens)))
        expect(
            negatives[0].tokens.grid == labels.tokens.grid,
            ShapeError,
            f"uncond layers up to the grid of {labels.tokens.grid}",
            f"{negatives[0].tokens.grid}",
            "pass the same layers for both branches",
        )
    return segment_entries([labels], negatives, settings, labels.tokens.grid)


def _fuse(layers: Sequence[LayerMaps], settings: Settings, whole: bool, start_tokens: Sequence[int]) -> TokenMaps:
    fusion = LayerFusion(settings, PER_LAYER_EPSILON if whole else 0.0)
    for layer in layers:
        columns = layer.cross_attention.to(compute_dtype(layer.cross_attention))
        columns = merge_starts(columns, start_tokens) if whole else start_and_rest(columns, start_tokens)
        fusion.add(_propagate_batch(layer.self_attention, columns, settings), layer.grid)
    return fusion.result()


def _propagate_batch(maps: Tensor | None, columns: Tensor, settings: Settings) -> Tensor:
    if not needs_self_attention(settings.power_weights):
        return propagate(None, columns, settings.power_weights)
    expect(
        maps is not None,
        ShapeError,
        "self_attention for every layer",
        "None",
        "pass it, or set power_weights=(1,)",
    )
    assert maps is not None
    images = zip(maps, columns, strict=True)
    return torch.stack([propagate(StoredAttention(own), cross, settings.power_weights) for own, cross in images])


def _check_layers(layers: Sequence[LayerMaps], branch: str, start_tokens: Sequence[int]) -> None:
    remedy = "pass the maps of the chosen layers, all from one evaluation"
    expect(len(layers) > 0, ShapeError, f"at least one layer in {branch}", "none", remedy)
    sizes = {(layer.cross_attention.shape[0], layer.cross_attention.shape[2]) for layer in layers}
    expect(len(sizes) == 1, ShapeError, f"one (B, L) for all layers of {branch}", sorted(sizes), remedy)
    ((_, tokens),) = sizes
    expect(
        all(0 <= start < tokens for start in start_tokens),
        ShapeError,
        f"start_tokens from 0 to {tokens - 1} in {branch}",
        tuple(start_tokens),
        "give the index of START in each chunk, or () for an encoder without START",
    )
