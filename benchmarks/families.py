"""What S-CFG adds to a step of every family of transformers, counted: FLOPs and launches at 4096 patches.

Ours is counted while the collector runs on tensors without data, so no GPU and no weights are needed; the model's
is a formula of its published sizes: with D the width, N text and image tokens, a block has 2·N·(4 + 2·r)·D² FLOPs
in its linear layers, r the width of its MLP, and 4·N²·D in its attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode

from scfg_core import Grid, Prompt, Settings
from scfg_core.collect import backend
from scfg_core.collect.budget import MemoryBudget
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector
from scfg_core.collect.layers import BAND, choose_by_depth
from scfg_core.families.table import CHROMA, FLUX_1, SD3_BANDS
from scfg_core.prompt import Role

from .launches import CARD, CudaAttention, Launches

SIDE = 64
"""Patches along a side: a 1024² image in most families."""
WORDS = 60
"""Tokens of a long prompt, which may own patches."""

COLUMNS = {
    "family": "family",
    "layers": "layers",
    "model_tflop": "TFLOP of a step",
    "ours_tflop": "of S-CFG",
    "percent": "%",
    "limit": "limit, %",
    "launches": "launches",
    "flash_percent": "flash, %",
    "flash_launches": "launches",
}


@dataclass(frozen=True)
class Size:
    """Published size of a model.

    depth, width, heads  of its blocks; mlp: r, the two or three matrices of its MLP as two.
    text                 text columns; joint: whether they share the softmax with the patches.
    start                whether there is START, so that the unconditional rows are observed as well.
    band                 of its depth, from which `auto` takes its layers, as the family has it.
    extra                FLOPs of a step beyond the formula, in one branch.
    limit                of the share of S-CFG, %.
    """

    name: str
    depth: int
    width: int
    heads: int
    mlp: float
    text: int
    joint: bool = True
    start: bool = False
    band: tuple[float, float] = BAND
    extra: float = 0.0
    limit: float = 3.0

    def step(self) -> float:
        """FLOPs of a step: the conditional and the unconditional branch."""
        n, width, text = SIDE * SIDE, self.width, self.text
        tokens = n + text if self.joint else n
        linear = 2 * tokens * (4 + 2 * self.mlp) * width**2
        attention = 4 * tokens**2 * width
        if not self.joint:  # attention to the text: two matrices for the patches, two for the text
            linear += 4 * (n + text) * width**2
            attention += 4 * n * text * width
        return 2 * (self.depth * (linear + attention) + self.extra)


def dual_attention(width: int, blocks: int) -> float:
    """FLOPs of SD 3.5-M's second attention, over the patches alone."""
    n = SIDE * SIDE
    return blocks * (2 * n * 4 * width**2 + 4 * n**2 * width)


SIZES = (
    Size("Anima", 28, 2048, 16, 4, 512, joint=False),
    Size("Cosmos-Predict2 2B", 28, 2048, 16, 4, 512, joint=False),
    Size("Flux.2 Klein 4B", 25, 3072, 24, 4.5, 512, start=True),
    Size("Chroma", 57, 3072, 24, 4, WORDS + 1, band=CHROMA.band),
    Size("Flux.1", 57, 3072, 24, 4, 256, band=FLUX_1.band),
    Size("Qwen-Image", 60, 3072, 24, 4, WORDS + 5),
    Size("Lumina 2", 26, 2304, 24, 4, WORDS + 40, start=True),
    Size("Z-Image", 30, 3840, 30, 4, WORDS + 8, start=True),
    Size("SD 3.5-L", 38, 2432, 38, 4, 154, start=True, band=SD3_BANDS[38]),
    Size(
        "SD 3.5-M", 24, 1536, 24, 4, 154, start=True, band=SD3_BANDS[24], extra=dual_attention(1536, 13), limit=4.5
    ),
    Size("HiDream", 48, 2560, 20, 4, 128 + 2 * 128),
    Size("AuraFlow", 36, 3072, 12, 4, 256 + 8),
    Size("HunyuanImage", 60, 3584, 28, 4, WORDS + 1),
    Size("Kandinsky 5", 50, 2560, 20, 4, WORDS + 1, joint=False),
)


def run() -> list[dict[str, Any]]:
    return [row(size) for size in SIZES]


def row(size: Size) -> dict[str, Any]:
    names = [str(block) for block in range(size.depth)]
    layers = choose_by_depth(names, "auto", size.band)
    flops, launches = ours(size, layers, stored=True)
    flash, flash_launches = ours(size, layers, stored=False)
    return {
        "family": size.name,
        "layers": ", ".join(layers),
        "model_tflop": round(size.step() / 1e12, 1),
        "ours_tflop": round(flops / 1e12, 3),
        "percent": round(100 * flops / size.step(), 2),
        "limit": size.limit,
        "launches": launches,
        "flash_percent": round(100 * flash / size.step(), 2),
        "flash_launches": flash_launches,
    }


def ours(size: Size, layers: list[str], stored: bool) -> tuple[int, int]:
    """FLOPs and launches of the collector in one step, by PyTorch's operations.

    stored  S is stored, as Triton's kernels and CPUs do; else as PyTorch does on CUDA without Triton, where an
            attention per power takes more FLOPs and less time.
    """
    with patch.object(backend, "FLASH_FROM", SIDE * SIDE if stored else backend.FLASH_FROM):
        return _counted(size, layers)


def _counted(size: Size, layers: list[str]) -> tuple[int, int]:
    grid, budget = Grid(SIDE, SIDE), MemoryBudget.for_device("cuda", CARD)
    collector = Collector(Settings(), budget=budget)
    roles: list[Role] = ["word" if WORDS > column >= 0 else "null" for column in range(size.text)]
    if size.start:
        roles[0] = "start"
    prompts = {branch: Prompt(branch, tuple(roles)) for branch in ("cond", "uncond")[: 1 + size.start]}
    images = len(prompts)
    with CudaAttention(), Launches() as launches, FlopCounterMode(display=False) as counter:
        collector.begin(prompts)
        for layer in layers:
            for layout in layouts(size, grid):
                q, k = (
                    torch.empty(
                        images, size.heads, count, size.width // size.heads, device="meta", dtype=torch.bfloat16
                    )
                    for count in (grid.area, layout.keys)
                )
                rows = [Rows(key, slice(index, index + 1)) for index, key in enumerate(prompts)]
                collector.observe(LayerCall(layer, q, k, rows, grid, layout))
        for prompt in prompts:
            collector.token_maps(prompt)
    return counter.get_total_flops(), launches.operations.total()


def layouts(size: Size, grid: Grid) -> list[Layout]:
    if size.joint:
        return [Layout.joint(size.text, grid)]
    return [Layout.self_attention(grid), Layout.cross_attention(size.text)]
