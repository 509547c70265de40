"""Training: orthogonal steps, spread noise levels, fair attention, and a resumed run that goes on as before."""

import pytest
import torch

from demo.muon import orthogonal
from demo.settings import Training
from demo.train import Trainer, rate, sample_times
from demo.unet import SharesProcessor, unfair_shares

SMALL = Training(batch=2, warmup=1, steps=10, cooldown=2)


@pytest.mark.parametrize("shape", [(8, 8), (6, 20), (20, 6)])
def test_orthogonal_brings_singular_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix, rounds=8))
    assert values.min() > 0.5 and values.max() < 1.4


def test_times_are_in_range_and_spread():
    t = sample_times(4000, 1000, SMALL, torch.Generator().manual_seed(0))
    assert t.min() >= 0 and t.max() < 1000
    assert (t < 100).float().mean() > 0.02 and 500 < t.float().mean() < 600


def test_the_rate_rises_stays_and_falls():
    s = Training(steps=100, warmup=10, cooldown=50)
    assert rate(0, s) == 0.1 and rate(20, s) == 1 and rate(75, s) == 0.5 and rate(99, s) == 0.02


def test_shares_are_unfair_only_outside_their_bounds():
    processor = SharesProcessor()
    is_word = torch.tensor([[False, True, True, False]])
    processor.probabilities = torch.tensor([0.4, 0.25, 0.25, 0.1]).expand(1, 2, 5, 4)
    assert unfair_shares([processor], is_word, 0.3, 0.15) == 0
    processor.probabilities = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 2, 5, 4)
    assert torch.isclose(unfair_shares([processor], is_word, 0.3, 0.15), torch.tensor(2 * 0.3**2))


def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path):
    straight = Trainer(SMALL, "cpu")
    straight.advance()
    straight.save(tmp_path / "state.pt")
    straight.advance()
    resumed = Trainer(SMALL, "cpu")
    resumed.resume(tmp_path / "state.pt")
    resumed.advance()
    for a, b in zip(straight.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(a, b)
