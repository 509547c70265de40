"""Keys that only some rows of a joint call have, and prompts that a host declares in turn."""

import numpy as np
import oracle
import pytest
import torch

from scfg_core import Grid, Prompt, Settings, ShapeError
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector

GRID, TOKENS = Grid(3, 4), 5
LAYOUT = Layout(TOKENS + GRID.area + 3, range(TOKENS), range(TOKENS, TOKENS + GRID.area))


def heads(images: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(images, 2, GRID.area, 8, generator=generator)
    return q, torch.randn(images, 2, LAYOUT.keys, 8, generator=generator)


@pytest.mark.parametrize("dead", [(), (1,)])
def test_a_row_is_as_if_it_never_had_the_keys_that_are_not_kept(dead):
    """Row 0 lacks a text column and a key of neither side, row 1 only such a one; a dead column no row has."""
    q, k = heads(2)
    kept = torch.ones(2, LAYOUT.keys, dtype=torch.bool)
    kept[0, [3, LAYOUT.keys - 1]] = False
    kept[1, LAYOUT.keys - 2] = False
    roles = tuple("dead" if column in dead else "word" for column in range(TOKENS))
    collector = Collector(Settings())
    collector.begin({"text": Prompt("cond", roles)})
    collector.observe(LayerCall("layer", q, k, [Rows("text", slice(0, 2))], GRID, LAYOUT, kept=kept))
    found = collector.token_maps("text").values
    for row in range(2):
        keys = [key for key in range(LAYOUT.keys) if kept[row, key] and key not in dead]
        joint = np.zeros((GRID.area, LAYOUT.keys))
        joint[:, keys] = oracle.head_mean(q[row].numpy(), k[row, :, keys].numpy())
        own, cross = oracle.split_joint(joint, slice(0, TOKENS), slice(TOKENS, TOKENS + GRID.area), True)
        owners = [column for column in range(TOKENS) if column not in dead]
        expected = oracle.propagate(own, cross, Settings().power_weights)[:, owners]
        np.testing.assert_allclose(found[row].numpy(), expected, rtol=1e-4, atol=1e-7)
    assert (found[0][:, 3 - len(dead)] == 0).all() and (found[1][:, 3 - len(dead)] > 0).all()


def test_rows_of_one_prompt_keep_their_own_keys():
    q, k = heads(2)
    kept = torch.rand(2, LAYOUT.keys, generator=torch.Generator().manual_seed(1)) < 0.7
    rows = [Rows("one", slice(0, 1)), Rows("other", slice(1, 2))]
    call = LayerCall("layer", q, k, rows, GRID, LAYOUT, kept=kept)
    part = call.of_prompts(lambda prompt: prompt == "other")
    assert part is not None and part.kept is not None and torch.equal(part.kept, kept[1:])


def test_a_prompt_that_is_declared_later_belongs_to_the_same_evaluation():
    q, k = heads(1)
    collector = Collector(Settings())
    collector.begin({"cond": Prompt.plain("cond", TOKENS)})
    collector.observe(LayerCall("layer", q, k, [Rows("cond", slice(0, 1))], GRID, LAYOUT))
    late = LayerCall("layer", q, k, [Rows("uncond", slice(0, 1))], GRID, LAYOUT)
    with pytest.raises(ShapeError, match="uncond"):
        collector.observe(late)
    collector.declare({"uncond": Prompt.plain("uncond", TOKENS)})
    collector.observe(late)
    assert collector.layers_seen("cond") == collector.layers_seen("uncond") == 1
