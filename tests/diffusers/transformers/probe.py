"""What a transformer's attention and its pipeline's CFG really did, seen by none of the product's ways.

Blocks are known by hooks on the modules; q, k and the mask by the names under which diffusers' files call
attention; raw predictions by a hook that runs before the product's, the guided one by what the scheduler is given.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...core import oracle
from .tiny import Kind

DISPATCHING = ("transformer_flux", "transformer_qwenimage", "transformer_z_image")
"""Files that call `dispatch_attention_fn`, with (b, n, heads, d); the others call PyTorch's function."""


@dataclass
class Seen:
    """One call of attention: q, k (b, heads, n, d), what is added to the scores, their scale."""

    q: Tensor
    k: Tensor
    mask: Tensor | None
    scale: float

    def maps(self, row: int, queries: slice) -> np.ndarray:
        """Head-averaged probabilities of these queries, float64."""
        q, k = (side[row].double().numpy() for side in (self.q[:, :, queries], self.k))
        added = 0.0
        if self.mask is not None:
            mask = self.mask.expand(len(self.q), 1, self.q.shape[2], -1)[row, 0, queries]
            added = np.where(mask, 0.0, -np.inf) if mask.dtype == torch.bool else mask.double().numpy()
        return np.mean([oracle.softmax(a @ b.T * self.scale + added) for a, b in zip(q, k, strict=True)], axis=0)


@dataclass
class Forward:
    """One call of the network: the attention of every block, and what it predicted, a list of images."""

    attention: dict[str, list[Seen]] = field(default_factory=dict)
    raw: list[Tensor] = field(default_factory=list)


@dataclass
class Step:
    forwards: list[Forward] = field(default_factory=list)
    guided: Tensor = field(default_factory=lambda: torch.empty(0))


class Probe:
    """Watches the pipeline `pipe` of a kind while it is entered: before the product is attached."""

    def __init__(self, pipe: Any, kind: Kind) -> None:
        self.pipe, self.kind = pipe, kind
        self.steps = [Step()]
        self._block: str | None = None

    @contextmanager
    def __call__(self) -> Iterator["Probe"]:
        network, step = self.pipe.transformer, self.pipe.scheduler.step
        handles = [network.register_forward_pre_hook(self._called), network.register_forward_hook(self._predicted)]
        for name in self.kind.names():
            module = network.get_submodule(f"{name}.{self.kind.attention}")
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._entered(name)))
            handles.append(module.register_forward_hook(lambda *_: self._entered(None)))
        with ExitStack() as stack:
            for file in DISPATCHING:
                module = import_module(f"diffusers.models.transformers.{file}")
                stack.enter_context(
                    patch.object(module, "dispatch_attention_fn", self._dispatched(module.dispatch_attention_fn))
                )
            called = self._called_directly(F.scaled_dot_product_attention)
            stack.enter_context(patch.object(F, "scaled_dot_product_attention", called))
            stack.enter_context(patch.object(self.pipe.scheduler, "step", self._stepped(step)))
            yield self
        for handle in handles:
            handle.remove()
        self.steps.pop()

    def _called(self, *_: Any) -> None:
        self.steps[-1].forwards.append(Forward())

    def _predicted(self, module: Any, args: Any, output: Any) -> None:
        self.steps[-1].forwards[-1].raw = [image.clone() for image in output[0]]

    def _entered(self, name: str | None) -> None:
        self._block = name

    def _see(self, q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None) -> None:
        if self._block is not None:
            seen = Seen(q.clone(), k.clone(), mask, q.shape[-1] ** -0.5 if scale is None else scale)
            self.steps[-1].forwards[-1].attention.setdefault(self._block, []).append(seen)

    def _dispatched(self, function: Any) -> Any:
        def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **more: Any) -> Tensor:
            self._see(query.transpose(1, 2), key.transpose(1, 2), attn_mask, more.get("scale"))
            block, self._block = self._block, None
            try:
                return function(query, key, value, attn_mask=attn_mask, **more)
            finally:
                self._block = block

        return attention

    def _called_directly(self, function: Any) -> Any:
        def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **more: Any) -> Tensor:
            self._see(query, key, attn_mask, more.get("scale"))
            return function(query, key, value, attn_mask=attn_mask, **more)

        return attention

    def _stepped(self, step: Any) -> Any:
        def stepped(guided: Tensor, *args: Any, **more: Any) -> Any:
            self.steps[-1].guided = guided.clone()
            self.steps.append(Step())
            return step(guided, *args, **more)

        return stepped

    # what the steps say

    def place(self, step: int, branch: int, image: int) -> tuple[Forward, int]:
        """The forward and the row of an image under prompt 0 (cond) or 1 (uncond)."""
        forwards = self.steps[step].forwards
        if self.kind.separate:
            return forwards[branch], image
        rows = len(forwards[0].raw) // 2
        second = branch == (1 if self.kind.cond_first else 0)
        return forwards[0], image + rows * second

    def maps(
        self,
        step: int,
        branch: int,
        image: int,
        layers: list[str],
        columns: int,
        grid: tuple[int, int],
        divide: bool,
    ) -> list[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
        """(S, C, grid) of these layers in float64; divide: whether rows of S are divided by their sums."""
        forward, row = self.place(step, branch, image)
        keys, text, patches = self.kind.order(columns, grid[0] * grid[1])
        found = []
        for layer in layers:
            seen = forward.attention[layer][0]
            assert seen.k.shape[2] >= keys, (seen.k.shape, keys)
            own, cross = oracle.split_joint(seen.maps(row, patches), text, patches, renormalise_rows=divide)
            found.append((own, cross, grid))
        return found

    def predicted(self, step: int, branch: int, image: int, grid: tuple[int, int]) -> np.ndarray:
        """A raw prediction (C, H, W), float64."""
        forward, row = self.place(step, branch, image)
        return self.latent(forward.raw[row], grid)

    def latent(self, image: Tensor, grid: tuple[int, int]) -> np.ndarray:
        """One image as the network or the pipeline has it → (C, H, W), float64."""
        values = image.double().numpy()
        if not self.kind.packed:
            return values.reshape(values.shape[0], *values.shape[-2:])
        h, w = grid
        out = np.empty((values.shape[1] // 4, 2 * h, 2 * w))
        for token, cells in enumerate(values[: h * w]):
            y, x = divmod(token, w)
            out[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2] = cells.reshape(-1, 2, 2)
        return out

    def as_pipeline(self, latent: np.ndarray) -> np.ndarray:
        """(C, H, W) → what the pipeline's CFG acts on."""
        if not self.kind.packed:
            return latent
        c, h, w = latent.shape
        tokens = [latent[:, y : y + 2, x : x + 2].ravel() for y in range(0, h, 2) for x in range(0, w, 2)]
        return np.array(tokens).reshape(h * w // 4, 4 * c)
