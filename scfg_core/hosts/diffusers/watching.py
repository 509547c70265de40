"""How q and k are caught as they pass: hooks on an attention's own projections, whichever processor is set; or,
where norms and rotary embeddings follow these, what PyTorch's own attention is called with."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from ...errors import ShapeError

SEPARATE = {"to_q": "norm_q", "to_k": "norm_k"}
"""An attention's projections, and the norm that each head's result goes through, where there is one."""

JOINT = {"to_q": None, "add_k_proj": None, "to_k": None}
"""The same where text keys (`add_k_proj`) stand before image keys in one softmax."""

TEXT_ONLY = {"to_q": None, "add_k_proj": None}


def watch_projections(
    attention: nn.Module,
    projections: Mapping[str, str | None],
    observing: Callable[[], bool],
    observe: Callable[..., None],
    failed: Callable[[Exception], None],
) -> list[RemovableHandle]:
    """Call `observe(*heads, scale)` after every call of `attention` while `observing()`: heads (b, H, n, d).

    They are what the attention's projections gave to whichever processor is set, so they are computed once, and
    the processor, its keyword arguments and its output are not touched. A processor that does not use all of them
    is not observed. An error in `observe` goes to `failed`, never to the attention.
    Raises `ShapeError` where the projections are fused into one.
    """
    if getattr(attention, "fused_projections", False):
        raise ShapeError(
            "expected attention with separate to_q and to_k, got fused projections: "
            "call unfuse_qkv_projections() first"
        )
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> RemovableHandle:
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            if observing():
                caught[name] = output

        return getattr(attention, name).register_forward_hook(keep)

    def forget(module: nn.Module, args: object) -> None:
        caught.clear()

    def show(module: nn.Module, args: object, output: object) -> None:
        if len(caught) == len(projections):
            try:
                heads = [_split_heads(module, caught[name], norm) for name, norm in projections.items()]
                observe(*heads, module.scale)
            except Exception as error:
                failed(error)
            finally:
                caught.clear()

    return [
        attention.register_forward_pre_hook(forget),
        *[catch(name) for name in projections],
        attention.register_forward_hook(show),
    ]


def _split_heads(attention: nn.Module, projected: Tensor, norm: str | None) -> Tensor:
    heads = rearrange(projected, "b n (heads d) -> b heads n d", heads=attention.heads)
    normalise = None if norm is None else getattr(attention, norm, None)
    return heads if normalise is None else normalise(heads)


def set_aside_for(network: nn.Module) -> AbstractContextManager[object] | None:
    """The compiler set aside, where it compiled `network` or a part of it, until this context is left.

    Compiled code is not compiled anew for hooks: it would not notice that it is observed. None = it is not
    compiled, or PyTorch (before 2.6) has no way to do so.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    compiled = any(hasattr(part, "_orig_mod") or part._compiled_call_impl is not None for part in network.modules())
    if not compiled or set_stance is None:
        return None
    stance = set_stance("force_eager")
    stance.__enter__()
    return stance


@dataclass(frozen=True)
class SeenAttention:
    """The first call of PyTorch's attention in a layer: what enters its softmax.

    q, k   (b, H, n, d) and (b, H, m, d), after norms and rotary embeddings.
    scale  of q kᵀ.
    kept   (b or 1, m) bool: keys that take part; None = all.
    bias   (b or 1, m): what is added to the scores of a key; None = nothing.
    """

    q: Tensor
    k: Tensor
    scale: float
    kept: Tensor | None = None
    bias: Tensor | None = None


def watch_attention(
    attention: nn.Module,
    observing: Callable[[], bool],
    observe: Callable[[SeenAttention], None],
    skipped: Callable[[], None],
    failed: Callable[[Exception], None],
    mask_query: Callable[[], int | None] = lambda: None,
) -> list[RemovableHandle]:
    """Call `observe` with the q and k of every call of `attention` while `observing()`.

    While the layer runs, a mode of PyTorch sees its functions, `scaled_dot_product_attention` among them, and calls
    them as they were called: processors, functions and weights stay the objects that they are, and the output is
    computed by the same code. Attention kernels that are not PyTorch's own are not seen.
    mask_query  a query whose mask holds for all of the image's; None: a mask that differs between queries calls
                `skipped`, as does causal attention.
    An error in `observe` goes to `failed`, never to the attention.
    """
    mode = _Seeing()

    def see(args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        try:
            given = dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs)
            seen = _seen(given, mask_query())
            if seen is None:
                skipped()
            else:
                observe(seen)
        except Exception as error:
            failed(error)

    def before(module: nn.Module, args: object) -> None:
        mode.leave()
        if observing():
            mode.enter(see)

    def after(module: nn.Module, args: object, output: object) -> None:
        mode.leave()

    return [
        attention.register_forward_pre_hook(before),
        attention.register_forward_hook(after, always_call=True),
        Ending(mode.leave),  # type: ignore[list-item]
    ]


_ATTENTION = F.scaled_dot_product_attention
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


class Ending:
    """A handle whose removal calls a function."""

    def __init__(self, remove: Callable[[], None]) -> None:
        self.remove = remove


class _Seeing(TorchFunctionMode):
    """Sees the first call of PyTorch's attention between `enter` and `leave`."""

    def __init__(self) -> None:
        super().__init__()
        self._see: Callable[..., None] | None = None
        self._entered = False

    def enter(self, see: Callable[..., None]) -> None:
        self._see = see
        self.__enter__()
        self._entered = True

    def leave(self) -> None:
        """Also after an interrupt, which calls no hook: what was entered later has been left by then."""
        self._see = None
        if self._entered and torch.overrides._get_current_function_mode() is self:
            self._entered = False
            self.__exit__(None, None, None)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is _ATTENTION and self._see is not None:
            see, self._see = self._see, None
            see(args, kwargs)
        return func(*args, **kwargs)


def _seen(given: Mapping[str, Any], mask_query: int | None) -> SeenAttention | None:
    """A call of PyTorch's attention; None where not all queries of the image attend to the same keys."""
    q, k, mask, scale = given["query"], given["key"], given.get("attn_mask"), given.get("scale")
    if given.get("is_causal"):
        return None
    if given.get("enable_gqa") and q.shape[1] != k.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if mask is None:
        return SeenAttention(q, k, scale)
    mask = mask[(None,) * (4 - mask.ndim)]
    if mask.shape[1] != 1 or (mask.shape[2] != 1 and mask_query is None):
        return None
    row = mask[:, 0, 0 if mask.shape[2] == 1 else mask_query]
    if row.dtype == torch.bool:
        return SeenAttention(q, k, scale, kept=row)
    return SeenAttention(q, k, scale, bias=row)
