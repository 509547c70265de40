"""What a mask that follows words costs beside one that stands still: a step of SD 1.5 at 64², three rows.

The row itself is that of any masked conditioning. Ours on top, segmenting the base prompt once more and making the
mask, is timed inside the step; on a GPU with a wait for the device at both ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from . import comfyui

SIDE, EVALUATIONS, WORDS = 64, 4, 77
COLUMNS = {
    "name": "model, latent",
    "step": "a step with S-CFG and a masked row, s",
    "follow": "following on top, s",
    "share": "of the step, %",
}


class Inside:
    """Seconds inside some methods: of the processor on a CPU."""

    def __init__(self, device: str) -> None:
        self.seconds = 0.0
        self._device = device

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self._now()
            try:
                return method(*args, **kwargs)
            finally:
                self.seconds += self._now() - start

        return timed

    def _now(self) -> float:
        if self._device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def run(device: str) -> list[dict[str, Any]]:
    problem = comfyui.start(device)
    if problem:
        sys.exit(problem)
    import comfy.sample

    from scfg_core import Settings
    from scfg_core.hosts.comfyui import follow_words, guide
    from scfg_core.hosts.comfyui.run import SamplingRun
    from scfg_core.run.follow import FollowWords

    dtype = torch.float32 if device == "cpu" else torch.float16
    model = guide(comfyui.build("sd15", dtype, device), Settings())[0]
    inside, steps = Inside(device), Inside(device)
    names = ("_follow", "_assign_masks")
    kept = {name: getattr(SamplingRun, name) for name in names}
    model.add_wrapper_with_key("predict_noise", "benchmark", steps.around(_call))
    for name in names:
        setattr(SamplingRun, name, inside.around(kept[name]))
    try:
        base, second, negative = (_text(seed) for seed in (1, 2, 3))
        base[0][1]["scfg_words"] = (tuple(f"w{index}" for index in range(WORDS)), tuple(range(WORDS)))
        followed = follow_words(second, FollowWords(", ".join(f"w{index}" for index in range(1, 30))), None, 0, 1)
        latent = torch.zeros(1, 4, SIDE, SIDE)
        noise = comfy.sample.prepare_noise(latent, 0)
        lists = base + followed, negative, latent
        comfy.sample.sample(
            model, noise, EVALUATIONS, comfyui.CFG, "euler", "normal", *lists, disable_pbar=True, seed=0
        )
    finally:
        for name, method in kept.items():
            setattr(SamplingRun, name, method)
    step, follow = (part.seconds / EVALUATIONS for part in (steps, inside))
    return [{"name": f"sd15 {SIDE}²", "step": step, "follow": follow, "share": 100 * follow / step}]


def _call(executor: Any, *args: Any) -> Tensor:
    return executor(*args)


def _text(seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, WORDS, comfyui.WIDTHS["sd15"], generator=generator), {}]]
