"""What S-CFG adds to a step, layer by layer: seconds of a block with maps beyond plain attention, times its layers.

Sums over the default layers of a layout at its latent, with the backend that is chosen there. Divided by the
seconds of a plain step, which `host` measures in the same run, it is the cost of S-CFG's attention; the rest
(segmentation, ratio map) is measured as one call.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from scfg_core import EntryMaps, Grid, Prompt, Settings, TokenMaps, ratio_map, segment_entries

from .backends import block, ours, plain
from .clock import seconds

LAYERS = {
    "sd15": ((4, 8, 160, 5), (8, 8, 160, 1)),
    "sdxl": ((2, 10, 64, 3), (4, 20, 64, 3)),
}
"""Of every grid watched by default: latent sides per grid side, heads, d, layers."""
SIDES = {"sd15": (64, 128), "sdxl": (128,)}
SIDES_GPU = {"sd15": (64, 128), "sdxl": (128, 256)}
COLUMNS = {
    "name": "model, latent",
    "attention": "attention of the watched layers, s",
    "added": "S-CFG adds in them, s",
    "interval": "95 %",
    "guidance": "guidance, s",
}


def run(pairs: int, device: str) -> list[dict[str, Any]]:
    rows = []
    for name, sides in (SIDES if device == "cpu" else SIDES_GPU).items():
        dtype = torch.float16 if device != "cpu" else torch.float32 if name == "sd15" else torch.bfloat16
        rows += [measure(name, side, dtype, pairs, device) for side in sides]
    return rows


def measure(name: str, side: int, dtype: torch.dtype, pairs: int, device: str) -> dict[str, Any]:
    """A row of one layout and latent: seconds added by all watched layers of a step, and by the guidance."""
    attention, added = np.zeros(pairs), np.zeros(pairs)
    with tqdm(total=2 * pairs * len(LAYERS[name]), unit="call", desc=f"{name} {side}²: layers") as bar:
        for shrink, heads, width, layers in LAYERS[name]:
            data = block(side // shrink, side // shrink, heads, width, dtype, device)
            watched = partial(ours, data, {})
            watched()
            plain(data)
            for pair in range(pairs):
                spent = seconds(partial(plain, data), device)
                attention[pair] += layers * spent
                added[pair] += layers * (seconds(watched, device) - spent)
                bar.update(2)
    picks = np.random.default_rng(0).integers(pairs, size=(2000, pairs))
    low, high = np.quantile(np.median(added[picks], axis=1), (0.025, 0.975)).tolist()
    grid = Grid(*2 * (side // LAYERS[name][0][0],))
    return {
        "name": f"{name} {side}²",
        "attention": float(np.median(attention)),
        "added": float(np.median(added)),
        "interval": f"[{low:.3f}, {high:.3f}]",
        "added_interval": [low, high],
        "guidance": min(seconds(partial(_guidance, grid, side, device), device) for _ in range(3)),
        "pairs": pairs,
    }


def _guidance(grid: Grid, side: int, device: str) -> None:
    """Segmentation and ratio map of one evaluation."""
    generator = torch.Generator().manual_seed(0)
    text, empty = (torch.rand(1, grid.area, tokens, generator=generator).to(device) for tokens in (77, 2))
    segmentation = segment_entries(
        [EntryMaps(TokenMaps(text, grid), Prompt.plain("cond", text.shape[2]))],
        [EntryMaps(TokenMaps(empty, grid), Prompt.plain("uncond", 77))],
        Settings(),
        Grid(side, side),
    )
    delta = torch.randn(1, 4, side, side, generator=generator).to(device)
    ratio_map(delta, segmentation, Settings(), 7.0)
