"""How q and k are caught as they pass: hooks on an attention's own projections, whichever processor is set."""

from collections.abc import Callable, Mapping

from einops import rearrange
from torch import Tensor, nn
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
