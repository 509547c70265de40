"""What makes the CPU wait for a GPU: reading values, and copying Python numbers or CPU tensors to it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

READING = (
    "_local_scalar_dense",
    "item",
    "nonzero",
    "is_nonzero",
    "equal",
    "masked_select",
    "bincount",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
)
"""Operations whose result, or its shape, depends on values."""
LEAVING = (Tensor.cpu, Tensor.numpy, Tensor.tolist, Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.__int__)
COMING = (Tensor.new_tensor, torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


class _Calls(TorchFunctionMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in LEAVING or func in COMING or (func in INDEXING and _by_values(args[1])):
            self._found.append(resolve_name(func) or func.__name__)
        return func(*args, **kwargs or {})


class _Operations(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::").partition(".")[0]
        out = func(*args, **kwargs or {})
        moved = name == "_to_copy" and isinstance(args[0], Tensor) and args[0].device != out.device
        if name in READING or moved:
            self._found.append(f"aten::{name}")
        return out


class Waits:
    """Within it every wait is found, on a CPU as well; `found` has their names, in order."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def __enter__(self) -> "Waits":
        self._modes = (_Calls(self.found), _Operations(self.found))
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


def _by_values(index: Any) -> bool:
    """Whether an index has a list, which becomes a tensor, or a mask, whose places must be counted."""
    parts: Sequence[Any] = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list) or (isinstance(part, Tensor) and part.dtype == torch.bool) for part in parts)
