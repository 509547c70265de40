"""The grid on the small model: it survives a kill, two processes give what one gives, arms are what they say."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from evaluation import small
from evaluation.arms import ARMS, MAIN
from evaluation.regions import shuffled
from evaluation.small_model import system
from evaluation.small_model.judge import GROUND, KINDS, answers, load_judge
from evaluation.small_model.noised import TrueScenes
from evaluation.small_model.truth import patch_classes
from evaluation.store import Store
from scfg_core import ScfgError, Segmentation

OTHERS = ("true-regions", "rescale", "rescale-default", "apg", "apg-default")
ARMS_OF_FEW = (*MAIN, *OTHERS)
FEW = [
    "--prompts",
    "2",
    "--main-prompts",
    "4",
    "--batch",
    "2",
    "--steps",
    "2",
    "--scales",
    "1",
    "5",
    "--rounds",
    "-1",
]
FEW += ["--device", "cpu", "--arms", *ARMS_OF_FEW]
IMAGES = (len(MAIN) + 1) * 4 + len(OTHERS) * 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    small.main([*FEW, "--out", str(folder)])
    return folder


def records(folder):
    store = Store(folder)
    store.read()
    return store.found


@pytest.mark.parametrize("lines", [5])
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
    for path in sorted(finished.glob("images/**/*.png")):
        assert path.read_bytes() == (tmp_path / path.relative_to(finished)).read_bytes()


def test_what_is_finished_is_not_drawn_again(finished, monkeypatch):
    monkeypatch.setattr(system, "sample", lambda *_, **__: pytest.fail("drawn again"))
    small.main([*FEW, "--out", str(finished)])


def test_a_report_draws_nothing_and_says_what_is_open(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(system, "sample", lambda *_, **__: pytest.fail("drawn"))
    small.main([*FEW, "--main-prompts", "6", "--report", "--out", str(tmp_path)])
    assert "Not drawn yet (prompts): cfg at γ 1 (2), cfg at γ 5 (2), default at γ 5 (2)" in capsys.readouterr().out
    content = json.loads((tmp_path / "table.json").read_text())
    assert len(content["open"]) == len(MAIN) + 1
    assert {row["n"] for row in content["rows"]} == {2, 4}


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
        if arm in ("mean-preserving", "patches", "shuffled", "true-regions"):
            assert record["mean_scale"] == pytest.approx(scale, rel=1e-3)


def test_every_arm_draws_other_images_from_the_same_noise(finished):
    store = Store(finished)
    images = {arm: np.stack([store.image(arm, 5.0, index) for index in range(2)]) for arm in ARMS_OF_FEW}
    assert len({pixels.tobytes() for pixels in images.values()}) == len(ARMS_OF_FEW)
    apart = {arm: float(np.abs(pixels.astype(float) - images["cfg"]).mean()) for arm, pixels in images.items()}
    assert all(distance < 60 for distance in apart.values()), apart


def test_scales_and_arms_are_counted_out(finished):
    lines = [json.loads(line) for line in (finished / "records" / "00000.jsonl").read_text().splitlines()]
    keys = {(line["arm"], line["scale"], line["index"]) for line in lines}
    assert len(lines) == len(keys) == IMAGES


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


@pytest.fixture(scope="module")
def true():
    return TrueScenes.held_out(100, seed=3)


@pytest.fixture(scope="module")
def seen(true):
    from demo.wavelet import decode

    return answers(load_judge(), decode(true.latents))


def test_the_judge_finds_all_that_true_scenes_show_and_misses_what_they_do_not(true, seen):
    verdicts = system.verdicts(seen, true.scenes)
    assert np.mean([verdict["all right"] for verdict in verdicts]) > 0.98
    turned = torch.roll(torch.arange(len(true)), 1)
    wrong = system.verdicts(seen, true.scenes[turned])
    assert np.mean([verdict["all right"] for verdict in wrong]) < 0.1


def test_true_regions_of_true_scenes_are_the_true_regions(true, seen):
    truth = patch_classes(true.scenes, true.patches)
    assert (seen.patches == truth).float().mean() > 0.95
    side = torch.zeros_like(true.patches)
    found = system.regions_of(Segmentation(side, side > 0), seen.patches)
    assert (found.foreground == (truth < GROUND)).float().mean() > 0.95


def test_what_captions_leave_out_is_not_judged(true, seen):
    for verdict, said in zip(system.verdicts(seen, true.scenes), true.scenes.said().tolist(), strict=True):
        assert [len(verdict[name]) for name in KINDS] == [sum(said[:3]), int(said[3]), int(said[4])]
