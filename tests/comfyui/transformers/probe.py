"""What a transformer's attention and the host's CFG really did in a run, seen by none of the product's ways.

The blocks are known by hooks on the modules, q and k by the name under which every file of the host calls its
attention function; rows by the host's own `cond_or_uncond`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import Tensor

from ...core import oracle
from .. import host
from .models import Family

FILES = (
    "cosmos.predict2",
    "flux.math",
    "qwen_image.model",
    "lumina.model",
    "modules.diffusionmodules.mmdit",
    "hidream.model",
    "aura.mmdit",
    "kandinsky5.model",
    "hunyuan_video.model",
)
NAMES = ("optimized_attention", "optimized_attention_masked")
Maps = tuple[np.ndarray, np.ndarray, tuple[int, int]]


@dataclass
class Call:
    """One call of the model: which list its chunks are of, and q, k (b, heads, n, d) of every call in a block."""

    chunks: list[int]
    attention: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)


@dataclass
class Evaluation:
    calls: list[Call] = field(default_factory=list)
    args: dict[str, Any] = field(default_factory=dict)


class Probe:
    """Watches the model of `patcher`, a clone, while it is entered."""

    def __init__(self, patcher: Any, family: Family) -> None:
        self.patcher, self.family = patcher.clone(), family
        self.names = family.names(patcher)
        self.evaluations = [Evaluation()]
        self._block: str | None = None
        self.patcher.set_model_sampler_post_cfg_function(self._post_cfg)

    def __deepcopy__(self, memo: dict) -> "Probe":
        return self

    @contextmanager
    def __call__(self) -> Iterator["Probe"]:
        network = host.unet(self.patcher)
        modules = dict(network.named_modules())
        handles = [network.register_forward_pre_hook(self._called, with_kwargs=True)]
        for name in self.names:
            handles.append(modules[name].register_forward_pre_hook(self._entered(name)))
            handles.append(modules[name].register_forward_hook(self._left))
        patches = []
        for file in FILES:
            module = import_module(f"comfy.ldm.{file}")
            patches += [
                patch.object(module, name, self._seen(getattr(module, name)))
                for name in NAMES
                if hasattr(module, name)
            ]
        for each in patches:
            each.start()
        try:
            yield self
        finally:
            for each in patches:
                each.stop()
            for handle in handles:
                handle.remove()
            self.evaluations = [found for found in self.evaluations if found.args]

    def _called(self, _module, _args, kwargs):
        options = kwargs["transformer_options"]
        self.evaluations[-1].calls.append(Call(list(options["cond_or_uncond"])))

    def _entered(self, name: str):
        def hook(_module, _args):
            self._block = name

        return hook

    def _left(self, _module, _args, _output):
        self._block = None

    def _seen(self, function):
        def attention(q, k, v, heads, mask=None, **kwargs):
            if self._block is not None:
                split = (lambda side: side) if kwargs.get("skip_reshape") else (lambda side: _heads(side, heads))
                calls = self.evaluations[-1].calls[-1].attention
                calls.setdefault(self._block, []).append((split(q).clone(), split(k).clone()))
            return function(q, k, v, heads, mask=mask, **kwargs)

        return attention

    def _post_cfg(self, args):
        self.evaluations[-1].args = dict(args)
        self.evaluations.append(Evaluation())
        return args["denoised"]

    # what the calls say

    def maps(
        self, index: int, side: int, image: int, chosen: list[str], columns: int, dead: set[int], divided: bool
    ) -> list[Maps]:
        """(S, C, grid) of the chosen layers for one image under prompt 0 (cond) or 1 (uncond), in float64.

        divided: whether the rows of S of a joint softmax are divided by their sums.
        """
        evaluation = self.evaluations[index]
        images = len(evaluation.args["cond_denoised"])
        (call,) = (found for found in evaluation.calls if side in found.chunks)
        row = call.chunks.index(side) * images + image
        grid = self.grid(evaluation.args["cond_denoised"])
        found = []
        for name in chosen:
            seen = [tuple(part[row].double().numpy() for part in pair) for pair in call.attention[name]]
            if self.family.order is None:
                (q1, k1), (q2, k2) = seen
                assert k2.shape[1] == columns
                own, cross = oracle.head_mean(q1, k1), oracle.head_mean(q2, k2)
            else:
                own, cross = self._joint(*seen[0], columns, grid, dead, divided)
            found.append((own, cross, grid))
        return found

    def _joint(self, q, k, columns: int, grid: tuple[int, int], dead: set[int], divided: bool):
        assert self.family.order is not None
        keys, text, image = self.family.order(columns, grid[0] * grid[1])
        assert k.shape[1] == keys, (k.shape, keys)
        kept = [key for key in range(keys) if key - text.start not in dead]
        joint = np.zeros((grid[0] * grid[1], keys))
        joint[:, kept] = oracle.head_mean(q[:, image], k[:, kept])
        return oracle.split_joint(joint, text, image, renormalise_rows=divided)

    def grid(self, latent: Tensor) -> tuple[int, int]:
        """Patches of a latent, frames one below the other."""
        patch_size = self.family.patch
        frames = latent.shape[2] if latent.ndim == 5 else 1
        h, w = (-(-side // patch_size) for side in latent.shape[-2:])
        return frames * h, w


def _heads(side: Tensor, heads: int) -> Tensor:
    if side.ndim == 4:  # (b, n, heads, d)
        return side.movedim(2, 1)
    return side.unflatten(-1, (heads, -1)).movedim(-2, 1)
