"""What S-CFG adds to a step, layer by layer: seconds of a block with maps beyond plain attention, times its layers.

Sums over the default layers of a layout at its latent. Divided by the seconds of a plain step, which `host --full`
measures, it is the cost of S-CFG's attention; the rest (segmentation, ratio map, record) is measured as one call.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from scfg_core import EntryMaps, Grid, Settings, TokenMaps, ratio_map, segment_entries

from .clock import seconds
from .ways import block, ours, plain

LAYOUTS = {
    "sd15 64²": (torch.float32, 64, {(16, 16, 8, 160): 5, (8, 8, 8, 160): 1}),
    "sd15 128²": (torch.float32, 128, {(32, 32, 8, 160): 5, (16, 16, 8, 160): 1}),
    "sdxl 128²": (torch.bfloat16, 128, {(64, 64, 10, 64): 3, (32, 32, 20, 64): 3}),
}
"""dtype, side of the latent, and how many layers of each (h, w, heads, d) are watched by default."""
COLUMNS = {
    "name": "model, latent",
    "attention": "attention of the watched layers, s",
    "added": "S-CFG adds in them, s",
    "interval": "95 %",
    "guidance": "guidance, s",
}


def run(pairs: int, device: str) -> list[dict[str, Any]]:
    total = pairs * 2 * sum(len(layers) for _, _, layers in LAYOUTS.values())
    with tqdm(total=total, unit="call") as bar:
        return [_row(name, *layout, pairs, device, bar) for name, layout in LAYOUTS.items()]


def _row(
    name: str, dtype: torch.dtype, side: int, layers: dict, pairs: int, device: str, bar: tqdm
) -> dict[str, Any]:
    attention = torch.zeros(pairs)
    added = torch.zeros(pairs)
    for size, count in layers.items():
        data = block(*size, dtype, device)
        with torch.no_grad():
            ours(data, "fused")
            for pair in range(pairs):
                spent = seconds(partial(plain, data), device)
                bar.update()
                attention[pair] += count * spent
                added[pair] += count * (seconds(partial(ours, data, "fused"), device) - spent)
                bar.update()
    picks = torch.randint(pairs, (2000, pairs), generator=torch.Generator().manual_seed(0))
    low, high = added[picks].median(dim=1).values.quantile(torch.tensor([0.025, 0.975])).tolist()
    h, w = max(layers)[:2]
    return {
        "name": name,
        "attention": float(attention.median()),
        "added": float(added.median()),
        "interval": f"[{low:.3f}, {high:.3f}]",
        "added_interval": [low, high],
        "guidance": min(seconds(partial(_guidance, Grid(h, w), side), device) for _ in range(3)),
        "pairs": pairs,
    }


def _guidance(grid: Grid, side: int) -> None:
    """Segmentation and ratio map of one evaluation."""
    generator = torch.Generator().manual_seed(0)
    text, empty = (torch.rand(1, grid.area, tokens, generator=generator) for tokens in (77, 2))
    segmentation = segment_entries(
        [EntryMaps(TokenMaps(text, grid, False), (0,))],
        [EntryMaps(TokenMaps(empty, grid, False), (0,))],
        Settings(),
        Grid(side, side),
    )
    ratio_map(torch.randn(1, 4, side, side, generator=generator), segmentation, Settings(), 7.0)
