"""Distances, intervals and paired comparisons against what is known of them."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from evaluation import plots
from evaluation.distances import Distance
from evaluation.experiment import Plan
from evaluation.frechet import Reference, figure, kept_features, resampled
from evaluation.report import AT_DOSE, Row, between, summarise
from evaluation.statistics import Figure, compare, mean_of_groups, share
from evaluation.store import Store
from evaluation.strength import spread
from views.curves import spread as spread_of_views


def normal(count: int, seed: int, mean: float = 0.0, spread: float = 1.0):
    return mean + spread * torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_frechet_distance_is_its_formula():
    one, other = normal(300, 0).numpy(), normal(200, 1, 0.5, 2.0).numpy()
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    means = one.mean(0) - other.mean(0)
    expected = means @ means + np.trace(first + second - 2 * sqrtm(first @ second).real)
    found = Reference.of(torch.from_numpy(one)).distance(torch.from_numpy(other))
    assert found == pytest.approx(expected, rel=1e-6)


def test_images_without_a_kind_of_region_are_left_out_of_its_distance():
    real, features = Reference.of(normal(300, 0)), normal(50, 1)
    with_gaps = torch.cat((features, torch.full((7, 5), torch.nan)))
    assert real.distance(with_gaps) == pytest.approx(real.distance(features))
    assert math.isnan(real.distance(with_gaps[-8:]))


def test_a_worse_arm_is_farther_and_its_paired_difference_says_so():
    prompts, second = normal(120, 2)[:, None], normal(120, 3)[:, None]
    arms = {
        "cfg": torch.cat((prompts, second), dim=1),
        "worse": torch.cat((prompts, second), dim=1) + 0.8,
        "same": torch.cat((prompts, second), dim=1),
    }
    real = Reference.of(normal(2000, 4))
    found = {name: resampled(real, features, rounds=40) for name, features in arms.items()}
    distance, gain = figure(found["worse"], 120), figure(found["worse"] - found["cfg"], 120)
    assert distance.mean > figure(found["cfg"], 120).mean
    assert 0 < gain.low < gain.mean < gain.high
    nothing = figure(found["same"] - found["cfg"], 120)
    assert (nothing.mean, nothing.low, nothing.high) == (0, 0, 0)


@pytest.mark.parametrize("groups", [[], [[]]])
def test_where_nothing_was_asked_there_is_a_dash(groups):
    figures = (share(groups), mean_of_groups(groups), compare(groups, groups))
    assert [str(figure) for figure in figures] == ["–"] * 3


def test_features_are_kept_and_made_anew_when_there_are_more_images(tmp_path):
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
    found = share([[False], [False, False]])
    assert found.mean == found.low == 0 and found.high > 0.3


@pytest.mark.parametrize(
    ("dose", "found"),
    [(4.0, (3.0, 5.0, 0.5)), (5.0, (5.0, 5.0, 0.0)), (3.0001, (3.0, 3.0, 0.0)), (2.0, None), (9.0, None)],
)
def test_the_nearest_doses(dose, found):
    assert between(dose, [5.0, 3.0, 7.5]) == found


def test_an_arm_is_compared_with_cfg_at_its_own_dose_prompt_by_prompt(tmp_path):
    store, plan = Store(tmp_path), Plan(("cfg", "default"), (3.0, 5.0), 2, 0, 2)
    answers = {("cfg", 3.0): (True, True), ("cfg", 5.0): (False, True), ("default", 3.0): (True, False)}
    store.annotate(
        [
            {
                "arm": arm,
                "scale": scale,
                "index": index,
                "mean_scale": 4.5 if arm == "default" else scale,
                "things": [right],
            }
            for (arm, scale), both in answers.items()
            for index, right in enumerate(both)
        ]
    )
    rows = {(row.arm, row.scale): row for row in summarise(store, plan, ["things"])}
    assert set(rows) == set(answers)
    against = rows["default", 3.0].comparisons["things"]
    assert against["cfg"].difference.mean == pytest.approx(-0.5)
    assert against[AT_DOSE].difference.mean == pytest.approx((1 - 0.25 + 0 - 1) / 2)
    assert (against[AT_DOSE].better, against[AT_DOSE].worse) == (1, 1)


def test_the_spread_of_norms_is_that_of_the_views():
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, 4, (2, 6, 5)))
    norms = torch.from_numpy(rng.random((3, 2, 6, 5)) + 0.1)
    for image in range(2):
        masks = [labels[image] == label for label in range(4)]
        areas = np.array([float(mask.float().mean()) for mask in masks])
        means = np.array([[float(step[image][mask].mean()) for mask in masks] for step in norms])
        assert float(spread(norms, labels)[image]) == pytest.approx(spread_of_views(means, areas))


def test_plots_are_drawn_with_and_without_intervals(tmp_path):
    certain, bare = Figure(0.3, 0.2, 0.4, 9), Figure(0.3, float("nan"), float("nan"), 9)
    against = {"cfg": compare([[1]], [[0]]), AT_DOSE: compare([[1]], [[1]])}
    rows = [
        Row(
            scale,
            arm,
            9,
            scale,
            {"all right": certain, "sky": certain},
            {} if arm == "cfg" else {"all right": against},
            certain,
        )
        for scale in (3.0, 5.0)
        for arm in ("cfg", "default")
    ]
    distances = [
        Distance(kind, arm, scale, 9, bare if scale == 3 else certain, None, certain if arm == "default" else None)
        for kind in ("whole", "sky")
        for arm in ("cfg", "default")
        for scale in (3.0, 5.0)
    ]
    plots.tradeoff(tmp_path / "tradeoff.png", rows, distances, ["all right", "sky"])
    plots.doses(tmp_path / "dose.png", rows, distances, ["all right"])
    plots.ablation(tmp_path / "ablation.png", rows, "all right")
    plots.regions(tmp_path / "regions.png", distances)
    plots.spreads(tmp_path / "spread.png", {"cfg, γ 3": [0.1, 0.4], "default, γ 3": [0.2]})
    names = ["ablation.png", "dose.png", "regions.png", "spread.png", "tradeoff.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
