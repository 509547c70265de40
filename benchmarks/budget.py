"""Largest layers inside the budget: attention only, live bytes beyond q, k and v.

Counted with the heavy arithmetic left out, so that it takes seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from tqdm import tqdm

from scfg_core import Grid, Settings
from scfg_core.collect.collector import DEFAULT_BUDGET_MIB, Collector

from .backends import PROMPTS, Block, as_projected, calls_of
from .memory import LiveBytes
from .naive import naive_bytes
from .report import mib

LAYERS = {
    "SDXL 256², level 1": (128, 128, 10, 64),
    "SDXL 256², level 2": (64, 64, 20, 64),
    "SD 1.5 512², level 2": (128, 128, 8, 160),
    "SD 1.5 512², level 3": (64, 64, 8, 160),
}
COLUMNS = {
    "name": "layer",
    "dtype": "numbers",
    "backend": "backend",
    "peak": "peak of 1 + 1 rows",
    "naive": "naive, by formula",
}


def run(dtype: torch.dtype) -> list[dict[str, Any]]:
    """A row for every layer. Peaks leave out q, k and v, which the host has anyway."""
    rows = []
    for name, (h, w, heads, width) in tqdm(LAYERS.items(), unit="layer"):
        q, k, v = (as_projected(torch.randn(2, heads, h * w, width).to(dtype)) for _ in range(3))
        text = as_projected(torch.randn(2, heads, 77, width).to(dtype))
        data = Block(Grid(h, w), q, k, v, q, text, text)
        collector = Collector(Settings(), budget_mib=DEFAULT_BUDGET_MIB)
        collector.begin(PROMPTS)
        with LiveBytes(hollow=True) as memory:
            for call in calls_of(data):
                collector.observe(call)
        rows.append(
            {
                "name": name,
                "dtype": str(dtype).removeprefix("torch."),
                "backend": "stored" if collector.budget.stores(q) else "matrix_free",
                "peak": mib(memory.peak),
                "peak_bytes": memory.peak,
                "budget_bytes": int(DEFAULT_BUDGET_MIB * 2**20),
                "naive_bytes": naive_bytes(h * w, heads),
                "naive": mib(naive_bytes(h * w, heads)),
            }
        )
    return rows
