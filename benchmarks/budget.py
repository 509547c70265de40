"""Largest layers inside the budget: attention only, live bytes beyond q, k, v and the layer's output.

Counted with the heavy arithmetic left out, so that it takes seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from tqdm import tqdm

from scfg_core import Grid, Settings
from scfg_core.collector import DEFAULT_BUDGET_MIB, Collector

from .memory import LiveBytes
from .naive import naive_bytes
from .report import mib
from .ways import ENTRIES, ROWS, Block, as_projected

LAYERS = {
    "SDXL 256², level 1": (128, 128, 10, 64),
    "SDXL 256², level 2": (64, 64, 20, 64),
    "SD 1.5 512², level 2": (128, 128, 8, 160),
    "SD 1.5 512², level 3": (64, 64, 8, 160),
}
COLUMNS = {
    "name": "layer",
    "dtype": "numbers",
    "way": "way",
    "peak": "peak of 1 + 1 rows",
    "naive": "naive, by formula",
}


def run(dtype: torch.dtype) -> list[dict[str, Any]]:
    """A row for every layer. Peaks leave out q, k, v and the output, which the host has anyway."""
    rows = []
    for name, (h, w, heads, width) in tqdm(LAYERS.items(), unit="layer"):
        q, k, v = (as_projected(torch.randn(2, heads, h * w, width).to(dtype)) for _ in range(3))
        text = as_projected(torch.randn(2, heads, 77, width).to(dtype))
        data = Block(Grid(h, w), q, k, v, q, text, text)
        collector = Collector(Settings(), budget_mib=DEFAULT_BUDGET_MIB)
        collector.begin(ENTRIES)
        fused = collector.stores(q)
        with LiveBytes(hollow=True) as memory:
            _attend(data, collector, fused)
        size = memory.peak - (v.nbytes if fused else 0)
        rows.append(
            {
                "name": name,
                "dtype": str(dtype).removeprefix("torch."),
                "way": "fused" if fused else "matrix_free",
                "peak": mib(size),
                "peak_bytes": size,
                "budget_bytes": int(DEFAULT_BUDGET_MIB * 2**20),
                "naive_bytes": naive_bytes(h * w, heads),
                "naive": mib(naive_bytes(h * w, heads)),
            }
        )
    return rows


@torch.no_grad()
def _attend(data: Block, collector: Collector, fused: bool) -> None:
    if fused:
        collector.attend_self("layer", data.q, data.k, data.v, ROWS, data.grid)
    else:
        collector.observe_self("layer", data.q, data.k, ROWS, data.grid)
    collector.observe_cross("layer", data.cross_q, data.cross_k, ROWS, data.grid)
