"""The ways of applying S against a naive version, for one transformer block of 1 + 1 rows.

Time: attn1 + attn2 with the maps, over plain attention alone. Peak: live bytes beyond q, k and v. Labels: share of
patches whose label or foreground differs from a float64 computation. All of a size come from one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from scfg_core import EntryMaps, Grid, Prompt, Settings, TokenMaps, segment_entries
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector
from scfg_core.method.attention import head_mean_attention
from scfg_core.method.fusion import start_and_rest
from scfg_core.method.propagation import StoredAttention, propagate

from .clock import Ratio, seconds
from .memory import LiveBytes
from .naive import NaiveMaps, naive_bytes, propagated
from .report import mib

CPU_WAYS: dict[str, dict[str, Any]] = {"stored": {"budget_mib": 1024.0}, "row blocks": {"budget_mib": 1e-3}}
GPU_WAYS: dict[str, dict[str, Any]] = {
    "triton": {"backend": "triton"},
    "triton, streamed": {"backend": "triton", "budget_mib": 1e-3},
    "pytorch": {"backend": "pytorch"},
}
"""What `Collector` is given for a way."""
TOKENS = 77
PROMPTS = {"negative": Prompt.plain("uncond", TOKENS), "positive": Prompt.plain("cond", TOKENS)}
ROWS = (Rows("negative", slice(0, 1)), Rows("positive", slice(1, 2)))
SIZES = {
    "quick": ((16, 16, 8, 160), (32, 32, 20, 64), (64, 64, 10, 64)),
    "full": ((16, 16, 8, 160), (32, 32, 8, 160), (32, 32, 20, 64), (64, 64, 8, 40), (64, 64, 20, 64)),
    "gpu": ((16, 16, 8, 160), (32, 32, 20, 64), (64, 64, 8, 40), (64, 64, 20, 64), (128, 128, 10, 64)),
}
COLUMNS = {
    "case": "one block",
    "backend": "backend",
    "time": "time, of plain attention",
    "peak": "peak",
    "label_changes": "labels changed, %",
}


@dataclass(frozen=True)
class Block:
    """q, k, v of attn1 and attn2: (2, H, n or L, d)."""

    grid: Grid
    q: Tensor
    k: Tensor
    v: Tensor
    cross_q: Tensor
    cross_k: Tensor
    cross_v: Tensor


def block(h: int, w: int, heads: int, width: int, dtype: torch.dtype, device: str, seed: int = 0) -> Block:
    """Near patches have near queries and keys, START draws most of the attention, words sit in places."""
    generator = torch.Generator().manual_seed(seed)

    def noise(length: int) -> Tensor:
        return torch.randn(2, heads, length, width, generator=generator)

    def smooth() -> Tensor:
        coarse = torch.randn(2, heads * width, 4, 4, generator=generator)
        fine = F.interpolate(coarse, size=(h, w), mode="bicubic").flatten(2)
        return fine.unflatten(1, (heads, width)).transpose(2, 3)

    places = smooth()
    q, k, cross_q = (1.2 * places + 0.4 * noise(h * w) for _ in range(3))
    text = noise(TOKENS)
    text[:, :, 0] = 0.3 * cross_q.mean(dim=2) + 0.2 * text[:, :, 0]
    parts = (q, k, noise(h * w), cross_q, text, noise(TOKENS))
    return Block(Grid(h, w), *(as_projected(part.to(device, dtype)) for part in parts))


def as_projected(tensor: Tensor) -> Tensor:
    """In memory as a layer's projection leaves it: (b, n, H·d)."""
    return tensor.transpose(1, 2).contiguous().transpose(1, 2)


def measure(
    size: tuple[int, int, int, int], dtype: torch.dtype, device: str, rounds: int, naive: bool, bar: tqdm
) -> list[dict[str, Any]]:
    """Rows of one size."""
    data = block(*size, dtype, device)
    h, w, heads, width = size
    expected = reference(data)
    calls = {name: partial(ours, data, how) for name, how in ways_of(device).items()}
    if naive:
        calls["naive"] = partial(_naive, data)
    bare = partial(plain, data)
    times: dict[str, list[float]] = {name: [] for name in ["plain", *calls]}
    for name, call in {"plain": bare, **calls}.items():  # the first call pays for what later ones find ready
        if name != "naive":
            call()
    for _ in range(rounds):
        for name, call in {"plain": bare, **calls}.items():
            if name != "naive" or not times["naive"]:
                bar.set_postfix_str(f"{h}×{w}, {heads} heads: {name}")
                times[name].append(seconds(call, device))
                bar.update()
    peaks = {name: _peak(call, device) for name, call in {"plain": bare, **calls}.items()}
    case = f"N {h * w}, {heads} heads × {width}, {str(dtype).removeprefix('torch.')}"
    rows = []
    for name, call in calls.items():
        ratio = Ratio.of(times[name], times["plain"][: len(times[name])])
        changed = _changes(call(), expected)
        rows.append(
            {
                "name": f"{case}, {name}",
                "case": case,
                "backend": name,
                **ratio.parts(),
                "peak": mib(peaks[name]),
                "plain_seconds": sorted(times["plain"])[len(times["plain"]) // 2],
                "peak_bytes": peaks[name],
                "peak_ratio": peaks[name] / peaks["plain"],
                "label_changes": 100 * changed,
            }
        )
    return rows


@torch.no_grad()
def plain(data: Block) -> None:
    F.scaled_dot_product_attention(data.q, data.k, data.v)
    F.scaled_dot_product_attention(data.cross_q, data.cross_k, data.cross_v)


@torch.no_grad()
def ours(data: Block, how: dict[str, Any]) -> tuple[TokenMaps, TokenMaps]:
    """Attention with maps; `how`: what the collector is given."""
    collector = Collector(Settings(), **how)
    collector.begin(PROMPTS)
    plain(data)
    for call in calls_of(data):
        collector.observe(call)
    return collector.token_maps("positive"), collector.token_maps("negative")


def calls_of(data: Block) -> tuple[LayerCall, LayerCall]:
    """attn1 and attn2 of the block."""
    grid, layouts = data.grid, (Layout.self_attention(data.grid), Layout.cross_attention(TOKENS))
    return (
        LayerCall("layer", data.q, data.k, ROWS, grid, layouts[0]),
        LayerCall("layer", data.cross_q, data.cross_k, ROWS, grid, layouts[1]),
    )


@torch.no_grad()
def _naive(data: Block) -> tuple[TokenMaps, TokenMaps]:
    plain(data)
    maps = NaiveMaps()
    maps.see("layer", data.q, data.k, data.grid, "attn1")
    maps.see("layer", data.cross_q, data.cross_k, data.grid, "attn2")
    empty, text = propagated(maps.own["layer"], maps.cross["layer"]).split(1)
    return TokenMaps(text, data.grid, False), TokenMaps(start_and_rest(empty, (0,)), data.grid, False)


@torch.no_grad()
def reference(data: Block) -> tuple[TokenMaps, TokenMaps]:
    """The same in float64."""
    maps = []
    for row in range(2):
        own, cross = (
            head_mean_attention(q[row : row + 1].double(), k[row : row + 1].double())[0]
            for q, k in ((data.q, data.k), (data.cross_q, data.cross_k))
        )
        maps.append(propagate(StoredAttention(own), cross, Settings().power_weights)[None])
    return TokenMaps(maps[1], data.grid, False), TokenMaps(start_and_rest(maps[0], (0,)), data.grid, False)


def _changes(found: tuple[TokenMaps, TokenMaps], expected: tuple[TokenMaps, TokenMaps]) -> float:
    """Share of patches whose label or foreground differs."""
    one, other = (
        segment_entries(
            [EntryMaps(text, PROMPTS["positive"])], [EntryMaps(empty, PROMPTS["negative"])], Settings(), text.grid
        )
        for text, empty in (found, expected)
    )
    return float(((one.labels != other.labels) | (one.foreground != other.foreground)).float().mean())


def _peak(call: Any, device: str) -> int:
    if device == "cpu":
        with LiveBytes() as memory:
            call()
        return memory.peak
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def run(full: bool, dtype: torch.dtype, device: str, rounds: int, naive: bool = True) -> list[dict[str, Any]]:
    sizes = SIZES["quick" if not full else "full" if device == "cpu" else "gpu"]
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(sizes) * (rounds * (1 + len(ways_of(device))) + naive), unit="call") as bar:
        for size in sizes:
            rows += measure(size, dtype, device, rounds, naive and _naive_fits(size, device), bar)
    return rows


def ways_of(device: str) -> dict[str, dict[str, Any]]:
    return CPU_WAYS if device == "cpu" else GPU_WAYS


def _naive_fits(size: tuple[int, int, int, int], device: str) -> bool:
    """Whether a GPU has room for all heads' scores and shares at once; on a CPU the sizes are those that do."""
    h, w, heads, _ = size
    return device == "cpu" or 2 * naive_bytes(h * w, heads) < torch.cuda.get_device_properties(device).total_memory
