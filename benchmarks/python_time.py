"""Python's own time in S-CFG per evaluation, on a CPU: SDXL's layout with widths so small that tensors are cheap.

Against another checkout of this pack: its figures come from the same run, child processes taking turns. The time is
the processor's in the public methods of `Session`, `Collector` and `Run`, of which ratio, segments and record are
"session"; maps that are computed when these ask for them are not. Beside it stands what PyTorch's operations take
by themselves, called again one after the other with the same tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess  # nosec B404
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "name": "checkout",
    "ours": "all of ours, ms",
    "ours_operations": "operations alone",
    "session": "session, ms",
    "session_operations": "operations alone",
    "of_ours": "×",
    "of_session": "×",
}
STEPS = 20
LATENT = 16
TOKENS = 77
LAYOUT: dict[str, Any] = {
    "block_out_channels": (32, 32, 64),
    "norm_num_groups": 8,
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
    "attention_head_dim": (2, 4, 8),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 16,
    "use_linear_projection": True,
}


class Operations(TorchDispatchMode):
    """Keeps the operations that PyTorch is asked for, with their tensors, by the names of who asks."""

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        super().__init__()
        self._names = names
        self._kept: dict[str, list[Callable[[], Any]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for name in self._names():
            self._kept.setdefault(name, []).append(partial(func, *args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def seconds(self, name: str) -> float:
        """All of a name once more, one after the other."""
        start = time.thread_time()
        for operation in self._kept[name]:
            operation()
        return time.thread_time() - start


class Watch:
    """Time inside wrapped methods: of the outermost ones, by a name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"session": 0.0, "ours": 0.0}
        self._depth = 0
        self._names: tuple[str, ...] = ()

    def names(self) -> Sequence[str]:
        """To whose time counts what runs now."""
        return self._names if self._depth else ()

    def around(self, method: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._depth:
                return method(*args, **kwargs)
            self._depth, self._names, start = 1, names, time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self._depth = 0
                for name in names:
                    self.seconds[name] += time.thread_time() - start

        return timed

    def aside(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Its time is ours, but not the session's."""

        @wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start, names = time.thread_time(), self._names
            self._names = tuple(name for name in names if name != "session")
            try:
                return method(*args, **kwargs)
            finally:
                self._names = names
                if self._depth and "session" in names:
                    self.seconds["session"] -= time.thread_time() - start

        return timed

    def wrap(self) -> None:
        """Wrap the public methods of the pack's classes, wherever this checkout has them."""
        for module in [module for name, module in sys.modules.items() if name.startswith("scfg_core")]:
            for name in ("Session", "Collector", "Run"):
                cls = getattr(module, name, None)
                if cls is not None and cls.__module__ == module.__name__:
                    self._wrap_class(cls)

    def _wrap_class(self, cls: type) -> None:
        for name, method in list(vars(cls).items()):
            if (cls.__name__, name) == ("Collector", "catch_up"):
                method = self.aside(method)
            if callable(method) and not name.startswith("_"):
                kinds = (
                    ("session", "ours")
                    if (cls.__name__, name) in (("Session", "ratio"), ("Run", "close"))
                    else ("ours",)
                )
                setattr(cls, name, self.around(method, kinds))


def measure() -> dict[str, float]:
    """Seconds per evaluation in this process: the least of several samplings."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from scfg_core.hosts.diffusers import scfg

    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**LAYOUT).eval().requires_grad_(False)
    scheduler = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)
    text, latent = torch.randn(2, TOKENS, LAYOUT["cross_attention_dim"]), torch.randn(1, 4, LATENT, LATENT)
    watch, found = Watch(), []
    watch.wrap()

    def sample() -> None:
        scheduler.set_timesteps(STEPS)
        with scfg(unet, guidance_scale=7.0, scheduler=scheduler):
            for t in scheduler.timesteps:
                unet(torch.cat([latent, latent]), t, encoder_hidden_states=text)

    with torch.no_grad():
        for _ in range(4):
            before = dict(watch.seconds)
            sample()
            found.append({name: (watch.seconds[name] - before[name]) / STEPS for name in before})
        with Operations(watch.names) as operations:
            sample()
        least = {name: min(sampling[name] for sampling in found) for name in found[0]}
        alone = {f"{name}_operations": min(operations.seconds(name) for _ in range(5)) / STEPS for name in least}
    return least | alone


def child(checkout: Path) -> dict[str, float]:
    """`measure` in a process that imports the pack from a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--measure"]
    done = subprocess.run(  # nosec B603
        command, env=environment, capture_output=True, text=True, check=True, cwd=checkout
    )
    return json.loads(done.stdout.splitlines()[-1])


def run(against: Path | None, pairs: int) -> list[dict[str, Any]]:
    """A row for this checkout, and one for the other."""
    checkouts = [ROOT] if against is None else [ROOT, against.resolve()]
    found: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
    for _ in range(pairs):
        for checkout in checkouts:
            found[checkout].append(child(checkout))
    rows = []
    for checkout in checkouts:
        row: dict[str, Any] = {"name": "this one" if checkout == ROOT else str(against)}
        for name in found[checkout][0]:
            row[name] = 1000 * min(one[name] for one in found[checkout])
        rows.append(row)
    for row in rows[1:]:
        row |= {f"of_{name}": rows[0][name] / row[name] for name in ("ours", "session")}
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--measure", action="store_true", required=True)
    parser.parse_args()
    sys.path = [entry for entry in sys.path if entry != str(ROOT / "benchmarks")]
    print(json.dumps(measure()))
