"""An evaluation makes no host–device sync and records no gradients."""

import pytest
import torch
from cases import (
    BUDGETS,
    PAPER,
    SETTINGS,
    SMALL_GRIDS,
    cross_call,
    feed,
    gathered,
    noise,
    pair,
    rng_of,
    self_call,
    two_branches,
)
from torch.utils._python_dispatch import TorchDispatchMode

from scfg_core import (
    Grid,
    combine,
    ratio_map,
)
from scfg_core.collect.collector import Collector


class NoSync(TorchDispatchMode):
    """Fails on whatever would wait for a GPU: a tensor's value read by the host, a shape that depends on values."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "equal",
        "bincount",
        "is_nonzero",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, "a boolean index waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", ["stored", "matrix_free", "auto"])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_evaluation_never_waits_for_the_device(name, backend):
    rng, tokens, settings = rng_of(102), 6, SETTINGS[name]
    blocks = [pair(rng, f"block{i}", grid, 2, tokens) for i, grid in enumerate(SMALL_GRIDS)]
    delta = noise(rng, 1, Grid(10, 12))
    collector = Collector(settings, budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(1, tokens)
    with NoSync():
        collector.begin(prompts)
        for block in blocks:
            collector.observe(self_call(block, rows))
            collector.observe(cross_call(block, rows))
        segmentation = gathered(collector, settings, Grid(10, 12))
        ratio = ratio_map(delta, segmentation, settings, 7.5, {1: 0.5})
        combine(delta, delta, ratio, 7.5)


def test_gradients_are_not_recorded():
    blocks = [pair(rng_of(103), "block", Grid(4, 4), 2, 5)]
    for part in ("q", "k", "cross_q", "cross_k"):
        getattr(blocks[0], part).requires_grad_()
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 5)
    collector.begin(prompts)
    feed(collector, blocks, rows)
    assert not collector.token_maps("positive").values.requires_grad
