"""Inputs for the core's tests, and the comparison with the oracle that they share."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import oracle
import torch

from scfg_core import (
    EntryMaps,
    Grid,
    LayerMaps,
    Prompt,
    ScfgError,
    Segmentation,
    Settings,
    segment_entries,
)
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
RATIO_TOLERANCE = 1e-5

PAPER, DEFAULT, AUTHORS = (Settings.preset(name) for name in ("paper", "default", "authors"))
SETTINGS = {
    "paper": PAPER,
    "default": DEFAULT,
    "authors": AUTHORS,
    "no_self_attention": replace(PAPER, power_weights=(1,)),
    "one_step": replace(PAPER, power_weights=(0, 1)),
    "eight_steps": replace(PAPER, power_weights=(0,) + (0.125,) * 8),
    "uneven_powers": replace(PAPER, power_weights=(0.1, 0.2, 0.7)),
    "smooth_maps": replace(PAPER, smooth_maps=True),
    "per_layer_sharp": replace(PAPER, renormalise="per_layer"),
    "argmax_foreground": replace(PAPER, foreground_rule="argmax"),
    "argmax_foreground_per_layer": replace(AUTHORS, foreground_rule="argmax"),
    "mean_benchmark": replace(PAPER, benchmark="all"),
    "patches": replace(DEFAULT, regions="patch"),
    "hard_cap": replace(PAPER, cap="hard"),
    "tight_clamp": replace(PAPER, ratio_min=0.97, ratio_max=1.03),
    "mean_preserving": replace(DEFAULT, mean_preserving=True),
    "two_fifths": replace(DEFAULT, strength=0.4),
}


SMALL_GRIDS = [Grid(5, 6), Grid(3, 3)]


BUDGETS = {"auto": None, "stored": 256.0, "matrix_free": 1e-5}
"""MiB with which S is kept as by default, in memory, or not at all."""


def rng_of(*seed):
    return np.random.default_rng(seed)


def tensor(array, dtype=torch.float32):
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def array(image):
    return image.detach().to(torch.float64).numpy()


# ---- maps --------------------------------------------------------------------------------------------------


def random_maps(rng, batch, grid, tokens):
    """(S, C) without structure: softmax of noise."""
    self_map = oracle.softmax(3 * rng.standard_normal((batch, grid.area, grid.area)))
    return self_map, oracle.softmax(2 * rng.standard_normal((batch, grid.area, tokens)))


def structured_maps(rng, batch, grid, tokens):
    """(S, C) as a network makes them: near patches attend to each other, words sit in places, START has most."""
    y, x = np.divmod(np.arange(grid.area), grid.w)
    distance = ((y[:, None] - y) / grid.h) ** 2 + ((x[:, None] - x) / grid.w) ** 2
    self_map = oracle.softmax(-30 * distance + rng.standard_normal((batch, grid.area, grid.area)))
    logits = np.empty((batch, grid.area, tokens))
    for image in range(batch):
        for token in range(tokens):
            centre = rng.uniform(size=2)
            near = ((y + 0.5) / grid.h - centre[0]) ** 2 + ((x + 0.5) / grid.w - centre[1]) ** 2
            logits[image, :, token] = 3 * np.exp(-8 * near)
    logits[..., 0] += 4
    return self_map, oracle.softmax(logits + 0.2 * rng.standard_normal(logits.shape))


MAPS = {"random": random_maps, "structured": structured_maps}


def branch(rng, kind, batch, grids, tokens, dtype=torch.float32):
    """One branch's layers, of `dtype`."""
    layers = []
    for grid in grids:
        self_map, cross = MAPS[kind](rng, batch, grid, tokens)
        layers.append(LayerMaps(tensor(self_map, dtype), tensor(cross, dtype), grid))
    return layers


def image_of(layers, image):
    """One image's layers as the oracle takes them."""
    return [
        (
            np.eye(layer.grid.area) if layer.self_attention is None else array(layer.self_attention[image]),
            array(layer.cross_attention[image]),
            (layer.grid.h, layer.grid.w),
        )
        for layer in layers
    ]


def alone(layers, image):
    """One image's layers as the product takes them."""
    return [
        LayerMaps(layer.self_attention[image : image + 1], layer.cross_attention[image : image + 1], layer.grid)
        for layer in layers
    ]


def noise(rng, batch, latent, channels=4, dtype=torch.float32):
    """A difference of predictions whose size varies over the picture."""
    hills = (
        0.2
        + rng.uniform(size=(batch, 1, 1, 1))
        + np.linspace(0, 1, latent.w)
        + np.linspace(0, 2, latent.h)[:, None]
    )
    return tensor(hills * rng.standard_normal((batch, channels, latent.h, latent.w)), dtype)


def two(rng, batch=2, tokens=6, grids=SMALL_GRIDS, kind="structured"):
    return branch(rng, kind, batch, grids, tokens), branch(rng, kind, batch, grids, tokens)


def by_hand(labels, foreground):
    return Segmentation(labels=torch.tensor(labels)[None], foreground=torch.tensor(foreground)[None])


# ---- comparison --------------------------------------------------------------------------------------------


def assert_segmented(segmentation, expected, image=0):
    """Labels and foreground of one image equal the oracle's wherever that has no tie."""
    assert expected.tied.mean() <= 0.05, "the case itself is made of ties"
    labels = segmentation.labels[image].numpy()
    wrong = (labels != expected.labels) & ~expected.tied
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} labels differ"
    assert bool(segmentation.has_foreground[image]) == expected.has_foreground
    wrong = segmentation.foreground[image].numpy() != expected.foreground
    if expected.has_foreground:
        wrong &= ~expected.fg_tied
    assert not wrong.any(), f"{wrong.sum()} of {wrong.size} foreground patches differ"


def assert_ratio(ratio, delta, segmentation, settings, guidance_scale, word_weights=None):
    """Every image's ratio map equals the oracle's, fed with the product's own labels and foreground."""
    assert ratio.shape == (delta.shape[0], 1, *delta.shape[2:])
    for image in range(delta.shape[0]):
        expected = oracle.ratio_map(
            array(delta[image]),
            segmentation.labels[image].numpy(),
            segmentation.foreground[image].numpy(),
            settings,
            guidance_scale,
            word_weights,
        )
        np.testing.assert_allclose(array(ratio[image, 0]), expected, rtol=RATIO_TOLERANCE, atol=0)


MESSAGE = re.compile(r"expected .+, got .+: .+", re.DOTALL)


def assert_tells(error, *words):
    """The three parts of an error, and the words that must be in it."""
    message = str(error.value)
    assert MESSAGE.fullmatch(message), message
    for word in words:
        assert word in message, f"{word!r} is missing in {message!r}"
    assert isinstance(error.value, ScfgError) and isinstance(error.value, ValueError)


# ---- q and k -----------------------------------------------------------------------------------------------


@dataclass
class Pair:
    """q and k of one block, attn1 and attn2; (rows, heads, n, d) each."""

    name: str
    grid: Grid
    q: torch.Tensor
    k: torch.Tensor
    cross_q: torch.Tensor
    cross_k: torch.Tensor

    def rows(self, index):
        return Pair(self.name, self.grid, self.q[index], self.k[index], self.cross_q[index], self.cross_k[index])


def pair(rng, name, grid, rows, tokens, heads=2, width=8, sharpness=1.5):
    """A block's q and k, random; near patches have similar self-attention keys."""

    def draw(length):
        return tensor(sharpness * rng.standard_normal((rows, heads, length, width)))

    return Pair(name, grid, draw(grid.area), draw(grid.area), draw(grid.area), draw(tokens))


def maps_of(pairs, row, tokens):
    """One row's layers as the oracle takes them, host-side repeats folded."""
    return [
        (
            oracle.head_mean(array(block.q[row]), array(block.k[row])),
            oracle.fold_repeats(oracle.head_mean(array(block.cross_q[row]), array(block.cross_k[row])), tokens),
            (block.grid.h, block.grid.w),
        )
        for block in pairs
    ]


def self_call(block, rows, scale=None):
    """attn1 of a block."""
    return LayerCall(block.name, block.q, block.k, rows, block.grid, Layout.self_attention(block.grid), scale)


def cross_call(block, rows, scale=None):
    """attn2 of a block, whose text keys are as many as came."""
    layout = Layout.cross_attention(block.cross_k.shape[2])
    return LayerCall(block.name, block.cross_q, block.cross_k, rows, block.grid, layout, scale)


def feed(collector, pairs, rows):
    for block in pairs:
        collector.observe(self_call(block, rows))
        collector.observe(cross_call(block, rows))


def two_branches(batch, tokens, start_tokens=(0,), uncond_tokens=None):
    """Prompts and rows of the usual call: unconditional rows first, then conditional ones."""
    prompts = {
        "positive": Prompt.plain("cond", tokens, start_tokens),
        "negative": Prompt.plain("uncond", uncond_tokens or tokens, start_tokens),
    }
    return prompts, [Rows("negative", slice(0, batch)), Rows("positive", slice(batch, 2 * batch))]


def entry_maps(collector, key, **where):
    """The fused maps of a prompt that the collector was told of."""
    return EntryMaps(collector.token_maps(key), collector.prompt(key), **where)


def gathered(collector, settings, latent):
    """The segmentation of one positive and one negative prompt."""
    return segment_entries(
        [entry_maps(collector, "positive")], [entry_maps(collector, "negative")], settings, latent
    )


def segmented(settings, pairs, batch, tokens, latent=None, start_tokens=(0,), **how):
    """One evaluation through a collector, everything in one call."""
    latent = latent or Grid(16, 16)
    collector = Collector(settings, **how)
    prompts, rows = two_branches(batch, tokens, start_tokens)
    collector.begin(prompts)
    feed(collector, pairs, rows)
    return gathered(collector, settings, latent)


def logs(maps):
    """q and k (b, 1, n, n or L) with scale 1 whose softmax is `maps` (b, n, …)."""
    q = torch.log(tensor(maps).clamp_min(1e-30))[:, None]
    k = torch.eye(q.shape[-1]).expand(q.shape[0], 1, -1, -1)
    return q, k


TWO_GRIDS = [Grid(6, 7), Grid(3, 4)]
LATENT = Grid(16, 16)


def blocks_of(rng, rows, tokens, grids=TWO_GRIDS):
    return [pair(rng, f"block{index}", grid, rows, tokens) for index, grid in enumerate(grids)]


def same(one, other):
    return one.labels.equal(other.labels) and one.foreground.equal(other.foreground)
