"""The benchmark of a GPU, on a host and a device that are played: what is compared with what."""

import itertools

import pytest
import torch

from benchmarks import gpu
from scfg_core.collect import backend


class Host:
    """Tells the watch of its evaluations; S-CFG takes longer, and by PyTorch longest."""

    name = "sd15"
    pictures = {"cfg": 0.0, "watch": 0.0, "scfg": 1.0}

    def __init__(self, watch, clock):
        self._watch, self._clock = watch, clock
        self.sampled = []

    def sample(self, variant, side, evaluations, images):
        slow = backend._distrusted
        self.sampled.append((variant, images, slow))
        milliseconds = {"cfg": 10, "watch": 12, "scfg": 14}[variant] + 2 * slow
        for _ in range(evaluations):
            self._watch(lambda: None)
            self._clock.now += milliseconds / 1000
        return torch.full((images,), self.pictures[variant])


class Clock:
    now = 0.0


@pytest.fixture
def played(monkeypatch):
    clock, watch = Clock(), gpu.Watch()
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: clock.now)
    allocated = itertools.count(1)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2**20)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 2**20 * (2 + next(allocated)))
    launched = itertools.count(1000, 100)
    monkeypatch.setattr(gpu, "_profiled", lambda *_: {"busy": 5.0, "launches": next(launched)})
    host = Host(watch, clock)
    return host, {row["variant"]: row for row in gpu.measure(host, watch, 64, 2, rounds=3)}


def test_every_variant_is_compared_with_plain_cfg(played):
    _, rows = played
    assert [rows[name]["wall"] for name in gpu.VARIANTS] == pytest.approx([10, 12, 14, 16])
    assert [rows[name]["wall_ratio"] for name in gpu.VARIANTS] == pytest.approx([1, 1.2, 1.4, 1.6])
    assert [rows[name]["python_added"] for name in gpu.VARIANTS] == pytest.approx([0, 2, 4, 6])
    assert [rows[name]["launches_added"] for name in gpu.VARIANTS] == [0, 100, 200, 300]
    assert [rows[name]["peak"] for name in gpu.VARIANTS] == ["2.0 MiB", "3.0 MiB", "4.0 MiB", "5.0 MiB"]
    assert rows["scfg, pytorch"]["peak_ratio"] == 2.5
    assert rows["scfg"]["name"] == "sd15 64², 2 images, scfg"


def test_triton_is_off_in_one_variant_alone(played):
    host, _ = played
    assert {(variant, slow) for variant, _, slow in host.sampled} == {
        ("cfg", False), ("watch", False), ("scfg", False), ("scfg", True),
    }  # fmt: skip
    assert not backend._distrusted


def test_a_watched_image_is_compared_with_plain_cfgs(played, monkeypatch):
    host, rows = played
    assert [rows[name]["identical"] for name in gpu.VARIANTS] == ["yes"] * 4
    monkeypatch.setattr(host, "pictures", {"cfg": 0.0, "watch": 0.5, "scfg": 1.0})
    rows = {row["variant"]: row["identical"] for row in gpu.measure(host, host._watch, 64, 1, rounds=1)}
    assert rows == {"cfg": "yes", "watch": "no", "scfg": "yes", "scfg, pytorch": "yes"}
