"""One call of the U-Net, watched: q and k of the chosen layers go to the collector, and nothing else changes.

Bound late, on a copy of this call's `transformer_options`: whatever attention override and attn1/attn2 replace
functions are there are wrapped, called with exactly what came, and their answer is returned. Nothing is installed
on the model, so nothing has to be restored.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...collector import Rows
from ...grid import Grid
from ...session import Session
from .levels import layer_name

OVERRIDE = "optimized_attention_override"
CHANGED = (
    "a layer was left out: another node changes its tokens, rows or mask (HyperTile, ToMe, attention couple, …)"
)


def compiles_unguarded(model_options: dict[str, Any]) -> bool:
    """Whether the model is compiled by the host's node, which guards nothing of `transformer_options`.

    Such code does not see that attention is watched, or, made while it was, fails once it no longer is. The node
    says so in the compiler's options, where torch.compile takes it out again; other nodes pass no options.
    """
    return model_options.get("torch_compile_kwargs", {}).get("options") is not None


def uncompiled() -> AbstractContextManager[object]:
    """Within it compiled modules run as they are written; nothing of it stays in the compiler's cache."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # PyTorch 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")


@dataclass
class Watcher:
    """Watches one call of the U-Net.

    rows     which rows of the batch belong to which entry.
    layers   names of the chosen layers.
    context  number of text tokens that the call carries, repeats included.
    fuse     whether S-CFG may compute a layer's output itself while it computes S.
    """

    session: Session
    rows: Sequence[Rows]
    layers: frozenset[str]
    context: int
    fuse: bool = False
    _inside_replace: bool = False
    _seen: dict[str, int] = field(default_factory=dict)
    _left_out: set[str] = field(default_factory=set)

    def bound_to(self, options: dict[str, Any]) -> dict[str, Any]:
        """A copy of `transformer_options` in which attention is watched."""
        options = {**options, OVERRIDE: self._override(options.get(OVERRIDE))}
        replaces = options.get("patches_replace", {})
        if any(replaces.get(kind) for kind in ("attn1", "attn2")):
            options["patches_replace"] = {
                **replaces,
                **{
                    kind: {place: self._replace(kind, patch) for place, patch in replaces[kind].items()}
                    for kind in ("attn1", "attn2")
                    if kind in replaces
                },
            }
        return options

    def _override(self, inner: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        def watched(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            output = (
                None
                if self._inside_replace
                else self._own(lambda: self._attention(args, kwargs, alone=inner is None))
            )
            if output is not None:
                return output
            return func(*args, **kwargs) if inner is None else inner(func, *args, **kwargs)

        return _never_compiled(watched)

    def _replace(self, kind: str, patch: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def watched(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], *args: Any, **kwargs: Any):
            self._own(lambda: self._replaced(kind, q, k, extra_options))
            before, self._inside_replace = self._inside_replace, True
            try:
                return patch(q, k, v, extra_options, *args, **kwargs)
            finally:
                self._inside_replace = before

        return _never_compiled(watched)

    def _own(self, observe: Callable[[], Tensor | None]) -> Tensor | None:
        """Our part of a layer: whatever happens to it, the layer's own output is computed."""
        try:
            return observe()
        except Exception as error:
            self.session.give_up(error)
            return None

    def _replaced(self, kind: str, q: Tensor, k: Tensor, options: dict[str, Any]) -> None:
        """Observe a call of a replace function."""
        name = self._chosen(options)
        if name is not None:
            self._seen[name] = 2 if kind == "attn2" else 1
            self._observe(name, kind, _split(q, options["n_heads"]), _split(k, options["n_heads"]), None, options)

    def _chosen(self, options: dict[str, Any]) -> str | None:
        """The layer that runs now, if it is one of ours."""
        if self.session.exhausted or "block" not in options or "activations_shape" not in options:
            return None
        name = layer_name(options["block"], options.get("block_index", 0))
        return name if name in self.layers else None

    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any], alone: bool) -> Tensor | None:
        """Observe a call of the attention function; its output, where we computed that as well."""
        options = kwargs.get("transformer_options") or {}
        name = self._chosen(options)
        if name is None:
            return None
        bound = dict(zip(("q", "k", "v", "heads", "mask"), args, strict=False)) | kwargs
        if not {"q", "k", "v", "heads"} <= bound.keys():
            return None
        q, k, v = bound["q"], bound["k"], bound["v"]
        plain = not bound.get("skip_reshape")
        if plain:
            q, k = _split(q, bound["heads"]), _split(k, bound["heads"])
        kind = self._kind(name, k.shape[2], options)
        if bound.get("mask") is not None:
            self._leave_out(name)
            return None
        values = _split(v, bound["heads"]) if plain and alone and self._may_fuse(q, kind, kwargs) else None
        output = self._observe(name, kind, q, k, values, options, scale=kwargs.get("scale"))
        return None if output is None else rearrange(output, "b h n d -> b n (h d)")

    def _kind(self, name: str, keys: int, options: dict[str, Any]) -> str:
        """attn1 and attn2 alternate within a block; the number of keys confirms it where the two differ."""
        self._seen[name] = self._seen.get(name, 0) + 1
        patches = _grid(options).area
        if keys == patches and keys != self.context:
            return "attn1"
        if keys == self.context and keys != patches:
            return "attn2"
        return "attn1" if self._seen[name] == 1 else "attn2"

    def _may_fuse(self, q: Tensor, kind: str, kwargs: dict[str, Any]) -> bool:
        """The output is ours to compute where the layer is plain self-attention on a CPU and S is stored."""
        plain = not kwargs.get("skip_output_reshape") and kwargs.get("scale") is None
        return (
            self.fuse and plain and kind == "attn1" and q.device.type == "cpu" and self.session.collector.stores(q)
        )

    def _observe(
        self,
        name: str,
        kind: str,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        options: dict[str, Any],
        scale: float | None = None,
    ) -> Tensor | None:
        grid = _grid(options)
        batch = options["activations_shape"][0]
        keys = grid.area if kind == "attn1" else self.context
        if (q.shape[0], q.shape[2], k.shape[0], k.shape[2]) != (batch, grid.area, batch, keys):
            self._leave_out(name)
        if name in self._left_out:
            return None
        collector = self.session.collector
        if kind == "attn2":
            collector.observe_cross(name, q, k, self.rows, grid, scale=scale)
        elif v is not None:
            return collector.attend_self(name, q, k, v, self.rows, grid, scale=scale)
        else:
            collector.observe_self(name, q, k, self.rows, grid, scale=scale)
        return None

    def _leave_out(self, name: str) -> None:
        self._left_out.add(name)
        self.session.collector.forget(name)
        self.session.run.note(CHANGED)


def _grid(options: dict[str, Any]) -> Grid:
    _, _, h, w = options["activations_shape"][:4]
    return Grid(h, w)


def _split(tensor: Tensor, heads: int) -> Tensor:
    return rearrange(tensor, "b n (h d) -> b h n d", h=heads)


def _never_compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The observer breaks the graph of torch.compile instead of being traced into it."""
    return torch.compiler.disable(function)  # type: ignore[return-value]
