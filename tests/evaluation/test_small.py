"""The grid on the small model: it survives a kill, two processes give what one gives, arms are what they say."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from demo.world import draw, patches
from evaluation import small
from evaluation.arms import ARMS, MAIN
from evaluation.regions import shuffled
from evaluation.small_model import system
from evaluation.small_model.places import places_right
from evaluation.store import Store
from scfg_core import ScfgError, Segmentation

ARMS_OF_FEW = ("cfg", "default", "matched", "mean-preserving", "even-shuffled", "even-patches", "even-true")
FEW = ["--prompts", "2", "--main-prompts", "4", "--batch", "2", "--steps", "2", "--scales", "5", "--rounds", "-1"]
FEW += ["--arms", *ARMS_OF_FEW]
PICTURES = 3 * 4 + 4 * 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    small.main([*FEW, "--out", str(folder)])
    return folder


def records(folder):
    store = Store(folder)
    store.read()
    return store.found


@pytest.mark.parametrize("lines", [0, 5])
def test_killed_at_any_line_it_ends_with_the_same_table(finished, tmp_path, lines):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "records" / "00000.jsonl"
    whole = file.read_text().splitlines(keepends=True)
    file.write_text("".join(whole[:lines]) + whole[lines][: len(whole[lines]) // 2])
    (tmp_path / "table.md").unlink()
    small.main([*FEW, "--out", str(tmp_path)])
    assert (tmp_path / "table.md").read_text() == (finished / "table.md").read_text()
    assert records(tmp_path) == records(finished)


def test_two_processes_give_what_one_gives(finished, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    work = [*launch, "-m", "evaluation", "small", *FEW, "--out", str(tmp_path)]
    subprocess.run(work, check=True, env=environment, capture_output=True, timeout=300)
    assert len(list((tmp_path / "records").iterdir())) == 2
    assert (tmp_path / "table.md").read_text() == (finished / "table.md").read_text()
    for path in sorted(finished.rglob("*.png")):
        assert path.read_bytes() == (tmp_path / path.relative_to(finished)).read_bytes()


def test_what_is_finished_is_not_drawn_again(finished, monkeypatch):
    monkeypatch.setattr(system, "sample", lambda *_, **__: pytest.fail("drawn again"))
    small.main([*FEW, "--out", str(finished)])


def test_other_options_do_not_mix_into_the_same_folder(finished):
    with pytest.raises(ScfgError, match="another folder"):
        small.main([*FEW, "--seed", "9", "--out", str(finished)])


def test_more_prompts_may_come_later(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    before = records(finished)
    small.main([*FEW, "--main-prompts", "6", "--out", str(tmp_path)])
    after = records(tmp_path)
    assert {key: after[key] for key in before} == before
    assert {index for arm, _, index in after if arm in MAIN} == set(range(6))
    small.main([*FEW, "--prompts", "6", "--out", str(tmp_path)])
    assert {index for _, _, index in records(tmp_path)} == set(range(6))
    assert {key: records(tmp_path)[key] for key in after} == after


def test_an_arm_without_what_it_needs_is_refused():
    with pytest.raises(SystemExit, match="add it"):
        small.main(["--arms", "matched"])


def test_every_arm_comes_after_what_it_needs():
    order = list(ARMS)
    assert all(order.index(arm.needs) < order.index(name) for name, arm in ARMS.items() if arm.needs)


def test_the_controls_are_as_strong_as_what_they_control(finished):
    found = records(finished)
    for (arm, scale, index), record in found.items():
        if arm == "cfg":
            assert record["mean_scale"] == scale
        if arm == "matched":
            assert record["mean_scale"] == found["default", scale, index]["mean_scale"] > 0
        if arm == "mean-preserving" or arm.startswith("even-"):
            assert record["mean_scale"] == pytest.approx(scale, rel=1e-3)


def test_every_arm_draws_other_pictures_from_the_same_noise(finished):
    store = Store(finished)
    pictures = {arm: np.stack([store.image(arm, 5.0, index) for index in range(2)]) for arm in ARMS_OF_FEW}
    assert len({images.tobytes() for images in pictures.values()}) == len(ARMS_OF_FEW)
    assert all(np.abs(images.astype(float) - pictures["cfg"]).mean() < 60 for images in pictures.values())


def test_scales_and_arms_are_counted_out(finished):
    lines = [json.loads(line) for line in (finished / "records" / "00000.jsonl").read_text().splitlines()]
    keys = {(each["arm"], each["scale"], each["index"]) for each in lines}
    assert len(lines) == len(keys) == PICTURES


def test_shuffled_regions_keep_their_sizes_and_stay_put():
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (2, 4, 6), generator=rng)
    found = Segmentation(labels, labels == 3)
    one, again = shuffled(found, [7, 8]), shuffled(found, [7, 8])
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.labels, labels)
    assert torch.equal(one.foreground, one.labels == 3)
    for before, after in zip(labels, one.labels, strict=True):
        assert torch.equal(before.flatten().bincount(minlength=5), after.flatten().bincount(minlength=5))


def test_true_regions_of_true_pictures_are_the_true_masks():
    scenes = draw(200, seed=3)
    owners = system.true_regions(scenes.images, scenes.descriptions)
    overlaps = []
    for own, masks, told in zip(owners, scenes.masks, scenes.descriptions, strict=True):
        for phrase in range(len(told.phrases)):
            found, truth = own == phrase, masks[phrase]
            overlaps.append(float((found & truth).sum() / (found | truth).sum().clamp(min=1)))
    assert np.mean(overlaps) > 0.9
    grid = Segmentation(torch.zeros(200, 16, 16, dtype=torch.int64), torch.zeros(200, 16, 16, dtype=torch.bool))
    regions = system.regions_of(grid, owners)
    truth = patches(scenes.masks.any(1), 16) > 0.5
    assert (regions.foreground == truth).float().mean() > 0.97


def test_places_of_true_scenes_are_found_and_mirrored_ones_are_not():
    scenes = draw(300, seed=8)
    answers = [right for told in places_right(scenes.images, scenes.descriptions) for right in told]
    turned = torch.flip(scenes.images, dims=(2, 3))
    mirrored = [right for told in places_right(turned, scenes.descriptions) for right in told]
    assert len(answers) > 50
    assert sum(answers) / len(answers) > 0.97
    assert sum(mirrored) / len(mirrored) < 0.03
