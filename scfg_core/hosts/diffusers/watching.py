"""How q and k are caught as they pass: hooks on an attention's own projections, whichever processor is set."""

from collections.abc import Callable, Mapping
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...errors import ShapeError, expect

PROJECTIONS = {"to_q": "norm_q", "to_k": "norm_k"}
"""An attention's projections, and the norm that each head's result goes through, where there is one."""

JOINT = {"to_q": None, "add_k_proj": None, "to_k": None}
"""The same where text keys (`add_k_proj`) stand before image keys in one softmax."""

TEXT_ONLY = {"to_q": None, "add_k_proj": None}


def watch_attention(
    attention: nn.Module,
    wanted: Callable[[], bool],
    seen: Callable[[Tensor, Tensor, float], None],
    failed: Callable[[Exception], None] | None = None,
) -> list[RemovableHandle]:
    """Call `seen(q, k, scale)` after every call of `attention` for which `wanted()`: q, k (b, H, n or m, d).

    See `watch_projections`.
    """
    return watch_projections(attention, PROJECTIONS, wanted, seen, failed)


def watch_projections(
    attention: nn.Module,
    projections: Mapping[str, str | None],
    wanted: Callable[[], bool],
    seen: Callable[..., None],
    failed: Callable[[Exception], None] | None = None,
) -> list[RemovableHandle]:
    """Call `seen(*heads, scale)` after every call of `attention` for which `wanted()`: heads (b, H, n, d).

    They are what the attention's own projections gave to whichever processor is set, so they are computed once, and
    the processor, its keyword arguments and its output are not touched. A processor that does not ask all of them
    is not seen. An error in `seen` goes to `failed`, where there is one, and never to the attention.
    Raises `ShapeError` where the projections are fused into one.
    """
    expect(
        not getattr(attention, "fused_projections", False),
        ShapeError,
        "attention with separate to_q and to_k",
        "fused projections",
        "call unfuse_qkv_projections() first",
    )
    caught: dict[str, Tensor] = {}

    def catch(name: str) -> RemovableHandle:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            if wanted():
                caught[name] = output

        return getattr(attention, name).register_forward_hook(keep)

    def forget(module: nn.Module, args: Any) -> None:
        caught.clear()

    def tell(module: nn.Module, args: Any, output: Any) -> None:
        if len(caught) == len(projections):
            try:
                seen(
                    *(_split_heads(module, caught[name], norm) for name, norm in projections.items()), module.scale
                )
            except Exception as error:
                if failed is None:
                    raise
                failed(error)
            finally:
                caught.clear()

    return [
        attention.register_forward_pre_hook(forget),
        *[catch(name) for name in projections],
        attention.register_forward_hook(tell),
    ]


def _split_heads(attention: nn.Module, projected: Tensor, norm: str | None) -> Tensor:
    heads = rearrange(projected, "b n (heads d) -> b heads n d", heads=attention.heads)
    normalise = None if norm is None else getattr(attention, norm, None)
    return heads if normalise is None else normalise(heads)
