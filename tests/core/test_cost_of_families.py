"""What S-CFG adds to a step of every family of transformers stays below its limit, counted in FLOPs."""

import pytest

from benchmarks.families import SIZES, row


@pytest.mark.parametrize("size", SIZES, ids=lambda size: size.name)
def test_a_step_costs_little_more(size):
    counted = row(size)
    assert 0.1 < counted["percent"] <= counted["limit"]
    assert counted["launches"] > 0 and 4 <= len(counted["layers"].split(", ")) <= 5
