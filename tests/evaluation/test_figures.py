"""Distances, intervals and paired comparisons against what is known of them."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from evaluation import plots
from evaluation.frechet import distances, frechet_distance, kept_features
from evaluation.report import Row
from evaluation.statistics import Figure, compare, share


def normal(count: int, seed: int, mean: float = 0.0, spread: float = 1.0):
    return mean + spread * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_is_its_formula():
    one, other = normal(300, 0).numpy(), normal(200, 1, 0.5, 2.0).numpy()
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    means = one.mean(0) - other.mean(0)
    expected = means @ means + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet_distance(torch.from_numpy(one), torch.from_numpy(other)) == pytest.approx(expected, rel=1e-5)


def test_a_worse_arm_is_farther_and_its_difference_tells_so():
    prompts = normal(120, 2)[:, None]
    arms = {
        "cfg": torch.cat((prompts, normal(120, 3)[:, None]), dim=1),
        "worse": torch.cat((prompts + 0.8, normal(120, 3)[:, None] + 0.8), dim=1),
        "same": torch.cat((prompts, normal(120, 3)[:, None]), dim=1),
    }
    found = distances(normal(2000, 4), arms, "cfg", rounds=40)
    distance, gain = found["worse"]
    assert distance.low < distance.mean < distance.high
    assert gain.low > 0
    assert found["same"][1].mean == found["same"][1].low == found["same"][1].high == 0
    assert distance.n == 120


def test_features_are_kept_and_made_anew_when_there_are_more_pictures(tmp_path):
    images = [np.full((4, 4, 3), level, dtype=np.uint8) for level in range(5)]
    looked: list[int] = []

    def extract(batch):
        looked.append(len(batch))
        return torch.tensor([[float(image.mean())] for image in batch])

    path = tmp_path / "features.npy"
    first = kept_features(path, extract, iter(images[:3]), 3, batch=2)
    again = kept_features(path, extract, iter(images[:3]), 3, batch=2)
    more = kept_features(path, extract, iter(images), 5, batch=2)
    assert torch.equal(first, again) and torch.equal(more[:3], first)
    assert more.flatten().tolist() == [0, 1, 2, 3, 4]
    assert looked == [2, 1, 2, 2, 1]


def test_better_and_worse_are_counted_by_prompt():
    result = compare([[1, 1], [0], [1, 0]], [[1, 0], [1], [0, 1]])
    assert (result.better, result.worse, result.p) == (1, 1, 1.0)
    assert result.difference.mean == pytest.approx(0.0)


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (1, 9, 22 / 1024)])
def test_sign_test(better, worse, p):
    values = [[1.0]] * better + [[0.0]] * worse + [[1.0]]
    others = [[0.0]] * better + [[1.0]] * worse + [[1.0]]
    assert compare(values, others).p == pytest.approx(p)


def test_a_share_of_nothing_right_still_has_an_interval():
    figure = share([[False], [False, False]])
    assert figure.mean == figure.low == 0 and figure.high > 0.3


def test_plots_are_drawn_with_and_without_intervals(tmp_path):
    certain, bare = Figure(0.3, 0.2, 0.4, 9), Figure(0.3, float("nan"), float("nan"), 9)
    rows = [
        Row(
            scale,
            arm,
            9,
            scale,
            {"phrases": certain},
            {} if arm == "cfg" else {"cfg": compare([[1]], [[0]])},
            certain,
        )
        for scale in (3.0, 5.0)
        for arm in ("cfg", "default")
    ]
    by_scale = {3.0: {"cfg": (certain, certain)}, 5.0: {"cfg": (bare, bare), "default": (certain, certain)}}
    plots.tradeoff(tmp_path / "tradeoff.png", rows, by_scale, "phrases")
    plots.ablation(tmp_path / "ablation.png", rows, "phrases")
    plots.spreads(tmp_path / "spread.png", {"cfg": [0.1, 0.4], "default": [0.2]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ablation.png", "spread.png", "tradeoff.png"]
