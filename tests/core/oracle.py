"""The method once more, as plain as it can be written: float64 numpy, one image at a time, loops.

It shares no code with the product and is slow on purpose; the tests hold the product against it.
Eq. n is arXiv 2404.05384's. Maps of one image are arrays (patches, tokens); a grid is a pair (h, w).
"""

import math
from dataclasses import dataclass

import numpy as np

NOBODY = -1
TIE = 1e-5
"""Two best values closer than this, relatively, are a tie: either label is right."""


# ---- Eq. 8: maps -------------------------------------------------------------------------------------------


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def head_mean(q, k, scale=None):
    """Mean over heads of softmax(q kᵀ · scale); q (heads, n, d), k (heads, m, d)."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    total = 0.0
    for query, key in zip(q.astype(np.float64), k.astype(np.float64), strict=True):
        total = total + softmax(query @ key.T * scale)
    return total / len(q)


def fold_repeats(cross, num_tokens):
    """Sum the copies of a token axis that a host has repeated: (n, rep·L) → (n, L)."""
    folded = np.zeros((cross.shape[0], num_tokens))
    for column in range(cross.shape[1]):
        folded[:, column % num_tokens] += cross[:, column]
    return folded


def split_joint(joint, text, image, renormalise_rows):
    """S and C of one softmax over [text; image] keys."""
    self_map, cross = joint[:, image], joint[:, text]
    if renormalise_rows:
        self_map = self_map / self_map.sum(axis=1, keepdims=True)
    return self_map, cross


# ---- Eq. 10: propagation -----------------------------------------------------------------------------------


def propagate(self_map, cross, power_weights):
    """Σ_r weight_r · Sʳ C, with the powers of S formed one after the other."""
    total = power_weights[0] * cross
    power = np.eye(cross.shape[0])
    for weight in power_weights[1:]:
        power = power @ self_map
        total = total + weight * (power @ cross)
    return total


# ---- space -------------------------------------------------------------------------------------------------


def bilinear_axis(values, target):
    """Resize the first axis, centres of cells aligned, borders held."""
    source = values.shape[0]
    rows = []
    for i in range(target):
        position = max((i + 0.5) * source / target - 0.5, 0.0)
        low = min(int(math.floor(position)), source - 1)
        high = min(low + 1, source - 1)
        part = position - low
        rows.append((1 - part) * values[low] + part * values[high])
    return np.stack(rows)


def bilinear(maps, grid, target):
    image = maps.reshape(*grid, -1)
    image = bilinear_axis(image, target[0])
    image = bilinear_axis(image.swapaxes(0, 1), target[1]).swapaxes(0, 1)
    return image.reshape(target[0] * target[1], -1)


def reflect(i, size):
    if size == 1:
        return 0
    return -i if i < 0 else 2 * (size - 1) - i if i >= size else i


def smooth(image):
    """3×3 with weights ∝ exp(−(Δx² + Δy²)); borders reflected, an axis of length 1 replicated. image (h, w, …)."""
    h, w = image.shape[:2]
    out = np.zeros(image.shape)
    norm = sum(math.exp(-(dy * dy + dx * dx)) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
    for y in range(h):
        for x in range(w):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    weight = math.exp(-(dy * dy + dx * dx)) / norm
                    out[y, x] += weight * image[reflect(y + dy, h), reflect(x + dx, w)]
    return out


def smooth_maps(maps, grid):
    return smooth(maps.reshape(*grid, -1)).reshape(maps.shape)


def nearest(cells, H, W):
    """Row i of H takes row ⌊i·h/H⌋."""
    h, w = cells.shape
    out = np.empty((H, W), dtype=cells.dtype)
    for y in range(H):
        for x in range(W):
            out[y, x] = cells[y * h // H, x * w // W]
    return out


# ---- fusion, Eq. 9, Eq. 14 ---------------------------------------------------------------------------------


def fold_starts(maps, start_tokens):
    """Several STARTs become one column, the first; the others stay empty and so never win."""
    if len(start_tokens) < 2:
        return maps
    starts = sorted(start_tokens)
    folded = maps.copy()
    folded[:, starts[0]] = maps[:, starts].sum(axis=1)
    folded[:, starts[1:]] = 0.0
    return folded


def start_and_rest(maps, start_tokens):
    rest = [token for token in range(maps.shape[1]) if token not in start_tokens]
    return np.stack([maps[:, sorted(start_tokens)].sum(axis=1), maps[:, rest].sum(axis=1)], axis=1)


def fuse(layers, settings, columns, epsilon):
    """Mean over layers on the largest grid, renormalised over space where the settings say.

    layers is a list of (S, C, grid); columns turns C into the columns wanted; returns (maps, grid).
    Without `per_layer` renormalisation, the maps come back as they are.
    """
    grid = max((layer[2] for layer in layers), key=lambda g: g[0] * g[1])
    fused = 0.0
    for self_map, cross, own in layers:
        maps = propagate(self_map, columns(cross), settings.power_weights)
        maps = bilinear(maps, own, grid)
        if settings.renormalise == "per_layer":
            if settings.smooth_maps:
                maps = smooth_maps(maps, grid)
            maps = maps / (maps.mean(axis=0) + epsilon)
        fused = fused + maps / len(layers)
    if settings.renormalise == "after_fusion" and settings.smooth_maps:
        fused = smooth_maps(fused, grid)
    return fused, grid


def divided_by_mean(maps, weights):
    """Each column by its weighted mean over space; a column of zero mean never wins."""
    out = np.full(maps.shape, -np.inf)
    for token in range(maps.shape[1]):
        mean = (weights * maps[:, token]).sum() / weights.sum()
        if mean > 0:
            out[:, token] = maps[:, token] / mean
    return out


@dataclass
class Segmented:
    """labels, foreground (h, w); `tied` where the label, `fg_tied` where the foreground, may be either."""

    labels: np.ndarray
    foreground: np.ndarray
    tied: np.ndarray
    fg_tied: np.ndarray
    has_foreground: bool
    scores: np.ndarray | None = None


def best_and_tied(scores):
    labels = scores.argmax(axis=1)  # the lowest index on a tie
    if scores.shape[1] == 1:
        return labels, np.zeros(len(scores), dtype=bool)
    second, first = np.sort(scores, axis=1)[:, -2:].T
    wanted = first > -np.inf  # by somebody
    tied = np.zeros(len(scores), dtype=bool)
    tied[wanted] = first[wanted] - second[wanted] <= TIE * np.abs(first[wanted])
    return labels, tied


def says_nothing(start):
    return start.max() - start.min() < 1e-3 * start.mean()


def segment(cond, uncond, settings, start_tokens=(0,)):
    """One image. cond and uncond are lists of (S or None, C, (h, w))."""
    maps, grid = fuse(cond, settings, lambda cross: fold_starts(cross, start_tokens), 1e-8)
    scores = scores_of(maps, settings)
    labels, tied = best_and_tied(scores)
    everything = np.ones(len(labels), dtype=bool)
    foreground, fg_tied, has_foreground = everything, ~everything, False
    if start_tokens:
        foreground, fg_tied, start = foreground_of(uncond, settings, start_tokens)
        has_foreground = bool(foreground.any()) and not says_nothing(start)
        if not has_foreground:
            foreground = everything
    return Segmented(
        labels.reshape(grid),
        foreground.reshape(grid),
        tied.reshape(grid),
        fg_tied.reshape(grid),
        has_foreground,
        scores,
    )


def scores_of(maps, settings):
    if settings.renormalise == "per_layer":
        return maps
    return divided_by_mean(maps, np.ones(len(maps)))


def foreground_of(uncond, settings, start_tokens):
    if settings.foreground_rule == "argmax":
        maps, _ = fuse(uncond, settings, lambda cross: fold_starts(cross, start_tokens), 1e-8)
        labels, tied = best_and_tied(scores_of(maps, settings))
        return labels != min(start_tokens), tied, maps[:, min(start_tokens)]
    pair, _ = fuse(uncond, settings, lambda cross: start_and_rest(cross, start_tokens), 0.0)
    pair = scores_of(pair, settings) if pair[:, 1].any() else pair  # a prompt of START alone has no rest
    start, rest = pair.T
    return start < rest, np.abs(start - rest) <= TIE * np.abs(rest), start


# ---- several entries ---------------------------------------------------------------------------------------


def patch_weight(weight, grid):
    """Mean of the full-latent weight over the window of latent cells that touch each patch."""
    H, W = weight.shape
    h, w = grid
    out = np.empty(grid)
    for i in range(h):
        for j in range(w):
            rows = slice(i * H // h, -(-(i + 1) * H // h))
            columns = slice(j * W // w, -(-(j + 1) * W // w))
            out[i, j] = weight[rows, columns].mean()
    return out


def paste(values, grid, area, common, latent):
    """Token maps of a crop (gh·gw, t), brought to the common grid by nearest."""
    y0, x0, ah, aw = area
    (gh, gw), (h, w), (H, W) = grid, common, latent
    out = np.empty((h * w, values.shape[1]))
    for i in range(h):
        y = min(max((2 * i + 1) * H // (2 * h), y0), y0 + ah - 1)
        for j in range(w):
            x = min(max((2 * j + 1) * W // (2 * w), x0), x0 + aw - 1)
            row, column = (y - y0) * gh // ah, (x - x0) * gw // aw
            out[i * w + j] = values[row * gw + column]
    return out


def common_grid(entries, latent):
    """Entries are (values, grid, area or None, weight (H, W) or None)."""
    for _, grid, area, _ in entries:
        if area is None:
            return grid
    _, (gh, gw), (_, _, ah, aw), _ = max(entries, key=lambda entry: entry[2][2] * entry[2][3])
    return -(-latent[0] * gh // ah), -(-latent[1] * gw // aw)


def shares(entries, common, latent):
    """w of each entry: its patch weight ÷ the sum over the entries of the branch; and that sum."""
    weights = []
    for _, _, area, weight in entries:
        if weight is None:
            weight = np.ones(latent)
            if area is not None:
                y, x, h, w = area
                weight = np.zeros(latent)
                weight[y : y + h, x : x + w] = 1.0
        weights.append(patch_weight(weight, common).ravel())
    total = np.sum(weights, axis=0)
    return [np.divide(weight, total, out=np.zeros(len(total)), where=total > 0) for weight in weights], total


def weighted_columns(entries, common, latent, settings):
    """Every entry's columns ÷ their weighted mean (unless it is alone and already renormalised), × w."""
    out = []
    ws, total = shares(entries, common, latent)
    alone = len(entries) == 1 and entries[0][2] is None and entries[0][3] is None
    for (values, grid, area, _), w in zip(entries, ws, strict=True):
        maps = values if area is None else paste(values, grid, area, common, latent)
        if settings.renormalise != "per_layer" or not alone:
            maps = divided_by_mean(maps, w)
        out.append(np.where(w[:, None] > 0, maps * w[:, None], -np.inf))
    return out, total


def segment_entries(cond, uncond, settings, latent):
    """One image; START folded in cond already, uncond values are [START, rest]."""
    common = common_grid(cond + uncond, latent)
    columns, total = weighted_columns(cond, common, latent, settings)
    labels, tied = best_and_tied(np.concatenate(columns, axis=1))
    labels = np.where(total > 0, labels, NOBODY)
    pairs, covered = weighted_columns(uncond, common, latent, settings)
    start, rest = sum(np.where(np.isfinite(pair), pair, 0.0) for pair in pairs).T
    foreground, has_foreground = start < rest, True
    if not (covered > 0).any() or says_nothing(start[covered > 0]) or not foreground.any():
        foreground, has_foreground = np.ones(len(labels), dtype=bool), False
    fg_tied = np.abs(start - rest) <= TIE * np.abs(rest)
    return Segmented(
        labels.reshape(common),
        foreground.reshape(common),
        tied.reshape(common),
        fg_tied.reshape(common),
        has_foreground,
    )


# ---- Eq. 13, 12 --------------------------------------------------------------------------------------------


def ratio_map(delta, labels, foreground, settings, guidance_scale, word_weights=None):
    """One image: delta (C, H, W), labels and foreground (h, w) → (H, W)."""
    H, W = delta.shape[1:]
    if guidance_scale <= 0:
        return np.ones((H, W))
    h, w = labels.shape
    word = nearest(labels, H, W)
    inside = nearest(foreground, H, W)
    region = word if settings.regions == "semantic" else nearest(np.arange(h * w).reshape(h, w), H, W)
    eta = np.sqrt((delta.astype(np.float64) ** 2).sum(axis=0))
    valid = np.isfinite(eta) & (word != NOBODY)
    ratio = np.ones((H, W))
    if not valid.any():
        return ratio

    measured = valid & inside if settings.benchmark == "foreground" else valid
    benchmark = eta[measured if measured.any() else valid].mean()
    for i in np.unique(region[valid]):
        mine = valid & (region == i)
        mean = eta[mine].mean()
        ratio[mine] = benchmark / mean if mean > 0 else 1.0

    ratio = np.clip(ratio, settings.ratio_min, settings.ratio_max)
    for label, weight in (word_weights or {}).items():
        ratio = np.where(word == label, ratio * weight, ratio)
    if settings.cap == "hard":
        ratio = np.minimum(ratio, 15 / guidance_scale)
    if settings.cap == "soft":
        ratio = np.minimum(ratio, max(1, 15 / guidance_scale))
    if settings.smooth_ratio:
        ratio = smooth(np.where(valid, ratio, 1.0))
    if settings.mean_preserving:
        ratio = ratio / ratio[valid].mean()
    ratio = 1 + settings.strength * (ratio - 1)
    return np.where(valid, ratio, 1.0)


def combine(eps_cond, eps_uncond, ratio, guidance_scale):
    return eps_uncond + guidance_scale * ratio * (eps_cond - eps_uncond)
