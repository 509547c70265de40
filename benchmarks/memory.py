"""Bytes of tensors that are alive, counted exactly: neither the allocator nor the rest of the process counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

MIB = 2**20
ATEN = torch.ops.aten
HEAVY = {
    ATEN.convolution.default,
    ATEN.mm.default,
    ATEN.mm.out,
    ATEN._softmax.out,
    ATEN.softmax.int_out,
    ATEN.addmm.default,
    ATEN.bmm.default,
    ATEN.baddbmm.default,
    ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    ATEN._scaled_dot_product_attention_math.default,
}
"""Operations that a hollow count leaves out: their results keep the right sizes, not the values."""


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that the code under it has made and still holds; their peak; the largest of them.

    hollow: leave the heavy arithmetic out, which does not change what is alive, so that large models are counted
    in seconds. Memory inside an operation is not seen.
    """

    def __init__(self, hollow: bool = False) -> None:
        super().__init__()
        self.peak, self.largest = 0, 0
        self._hollow = hollow
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}
        self._counted = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {storage._cdata for storage in _storages((args, kwargs))}
        left_out = self._hollow and func in HEAVY
        out = _hollow(func, args, kwargs) if left_out else func(*args, **kwargs)
        for storage in _storages(out):
            if storage._cdata in given:
                continue
            known = self._made.get(storage._cdata)
            if known is None or known[0].expired():
                self._counted += storage.nbytes() - (known[1] if known else 0)
                self._made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self.largest = max(self.largest, storage.nbytes())
        if self._counted > self.peak:  # what has died since is only looked for where it could matter
            self.peak = max(self.peak, self.live)
        return out

    def restart(self) -> None:
        """Forget the peak; what is alive stays counted."""
        self.peak = self.largest = 0

    @property
    def live(self) -> int:
        self._made = {key: made for key, made in self._made.items() if not made[0].expired()}
        self._counted = sum(size for _, size in self._made.values())
        return self._counted


def _storages(tree: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _hollow(func: Any, args: Any, kwargs: Any) -> Any:
    if "out" in kwargs:
        return kwargs["out"]

    def shape(leaf: Any) -> Any:
        return leaf.to("meta") if isinstance(leaf, Tensor) else leaf

    def zeros(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="cpu").zero_()

    return tree_map(zeros, func(*tree_map(shape, args), **tree_map(shape, kwargs)))
