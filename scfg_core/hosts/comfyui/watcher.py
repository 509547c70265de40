"""One call of the model, observed: q and k of the chosen layers go to the session, and nothing else changes.

Bound late, on a copy of this call's `transformer_options`: whatever attention override and attn1/attn2 replace
functions are there are wrapped, called with exactly what came, and their answer is returned. Nothing is installed
on the model, so nothing has to be restored.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...collect.calls import LayerCall, Rows
from ...run.guard import guarded
from ...run.session import Session
from .models import Architecture, AttentionCall, ModelCall

OVERRIDE = "optimized_attention_override"
SLOTS = ("attn1", "attn2")
BLOCKS = "dit"


def compiles_unguarded(model_options: dict[str, Any]) -> bool:
    """Whether the model is compiled by the host's node, which guards nothing of `transformer_options`.

    Such code does not see that attention is observed, or, compiled while it was, fails once it no longer is. The
    node
    says so in the compiler's options, where torch.compile takes it out again; other nodes pass no options.
    """
    return model_options.get("torch_compile_kwargs", {}).get("options") is not None


def uncompiled() -> AbstractContextManager[object]:
    """Within it compiled modules run as they are written; nothing of it stays in the compiler's cache."""
    set_stance = getattr(torch.compiler, "set_stance", None)  # PyTorch 2.6
    return nullcontext() if set_stance is None else set_stance("force_eager")


@dataclass
class Watcher:
    """Observes one call of the model.

    rows    which rows of the batch belong to which prompt.
    layers  names of the chosen layers.
    model   the call.
    """

    session: Session
    architecture: Architecture
    rows: Sequence[Rows]
    layers: frozenset[str]
    model: ModelCall
    _inside_replace: bool = False
    _calls: int = 0
    _calls_of: dict[str, int] = field(default_factory=dict)

    def give_up(self, error: Exception) -> None:
        self.session.give_up(error)

    def bound_to(self, options: dict[str, Any]) -> dict[str, Any]:
        """A copy of `transformer_options` in which attention is observed."""
        options = {**options, OVERRIDE: self._override(options.get(OVERRIDE))}
        replaces = options.get("patches_replace", {})
        if any(replaces.get(slot) for slot in SLOTS):
            wrapped = {
                slot: {place: self._replace(slot, patch) for place, patch in replaces[slot].items()}
                for slot in SLOTS
                if slot in replaces
            }
            options["patches_replace"] = {**replaces, **wrapped}
        marked = {block: marking(block, replaces.get(BLOCKS, {}).get(block)) for block in self._blocks_to_mark()}
        if marked:
            replaces = options.get("patches_replace", {})
            options["patches_replace"] = {**replaces, BLOCKS: {**replaces.get(BLOCKS, {}), **marked}}
        return options

    def _blocks_to_mark(self) -> list[tuple[str, int]]:
        return [
            (kind, index) for kind, index in self.architecture.marked_blocks if f"{kind}.{index}" in self.layers
        ]

    def _override(self, inner: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
        def observed(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
            if not self._inside_replace:
                self._attention(args, kwargs)
            return func(*args, **kwargs) if inner is None else inner(func, *args, **kwargs)

        return _never_compiled(observed)

    def _replace(self, slot: str, patch: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def observed(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any], *args: Any, **kwargs: Any):
            self._replaced(slot, q, k, extra_options)
            before, self._inside_replace = self._inside_replace, True
            try:
                return patch(q, k, v, extra_options, *args, **kwargs)
            finally:
                self._inside_replace = before

        return _never_compiled(observed)

    @guarded
    def _attention(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Observe a call of the attention function."""
        options = kwargs.get("transformer_options") or {}
        layer = self._chosen(options)
        self._calls += 1
        if layer is None:
            return
        bound = dict(zip(("q", "k", "v", "heads", "mask"), args, strict=False)) | kwargs
        if not {"q", "k", "heads"} <= bound.keys():
            return
        q, k = bound["q"], bound["k"]
        if not bound.get("skip_reshape"):
            q, k = _split(q, bound["heads"]), _split(k, bound["heads"])
        repeated = self._calls_of.get(layer, 0)
        self._calls_of[layer] = repeated + 1
        mask = bound.get("mask")
        if mask is not None and not self.architecture.allows_mask(mask, self.model):
            self.session.skip_layer(layer, [part.prompt for part in self.rows])
            return
        self._observe(AttentionCall(layer, q, k, options, self.model, repeated=repeated), kwargs.get("scale"))

    @guarded
    def _replaced(self, slot: str, q: Tensor, k: Tensor, options: dict[str, Any]) -> None:
        """Observe a call of a replace function."""
        layer = self._chosen(options)
        if layer is None:
            return
        self._calls_of[layer] = SLOTS.index(slot) + 1
        heads = options["n_heads"]
        self._observe(AttentionCall(layer, _split(q, heads), _split(k, heads), options, self.model, slot))

    def _chosen(self, options: dict[str, Any]) -> str | None:
        """The layer that runs now, if it is a chosen one."""
        layer = self.architecture.layer_of(options, self._calls) if self.session.observing else None
        return layer if layer in self.layers else None

    def _observe(self, call: AttentionCall, scale: float | None = None) -> None:
        site = self.architecture.locate(call)
        if site is None:
            return
        q = call.q
        if site.queries is not None:
            if q.shape[2] != call.k.shape[2]:
                self.session.skip_layer(call.layer, [part.prompt for part in self.rows])
                return
            q = q[:, :, site.queries.start : site.queries.stop]
        self.session.observe(LayerCall(call.layer, q, call.k, self.rows, site.grid, site.layout, scale))


def marking(block: tuple[str, int], inner: Callable[..., Any] | None) -> Callable[..., Any]:
    """A replace function of a block that only says in `transformer_options` which block runs."""
    kind, index = block

    def marked(args: dict[str, Any], extra: dict[str, Any]) -> Any:
        options = {**args["transformer_options"], "block_type": kind, "block_index": index}
        args = {**args, "transformer_options": options}
        return extra["original_block"](args) if inner is None else inner(args, extra)

    return _never_compiled(marked)


def _split(tensor: Tensor, heads: int) -> Tensor:
    """(b, n, h·d) → (b, h, n, d), at every attention: `rearrange` takes four times as long."""
    return tensor.view(*tensor.shape[:2], heads, -1).transpose(1, 2)


def _never_compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The observer breaks the graph of torch.compile instead of being traced into it."""
    return torch.compiler.disable(function)  # type: ignore[return-value]
