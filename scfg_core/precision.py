"""In which precision the method computes: fp32 at least, whatever the model has and whatever autocast is around it.

S in bf16 changes up to 16 % of the labels.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

Given = ParamSpec("Given")
Result = TypeVar("Result")


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """fp64 stays; everything else is computed in fp32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


@lru_cache(maxsize=64)
def constant(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number as a tensor () on a device, made once; `torch.where` would make it of a plain number every time."""
    return torch.full((), value, dtype=dtype, device=device)


def full_precision(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function with autocast set aside on the device of its first tensor: its products are taken as written."""

    @wraps(function)
    def exact(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        device = next(given.device.type for given in (*args, *kwargs.values()) if isinstance(given, Tensor))
        if not _autocasts(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return exact


def _autocasts(device: str) -> bool:
    try:
        return torch.is_autocast_enabled(device)
    except RuntimeError:  # a device that knows no autocast
        return False
    except TypeError:  # PyTorch before 2.4
        return torch.is_autocast_enabled() if device == "cuda" else torch.is_autocast_cpu_enabled()
