"""The long comparison: it survives a kill, and its figures are what they are called."""

import json
import shutil

import pytest
import torch

import demo.compare as compare
from demo.captions import parse
from demo.compare_table import compare_arms, sign_test
from demo.places import places_right
from demo.world import draw

FEW = ["--prompts", "2", "--batch", "1", "--steps", "2", "--scales", "5"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    compare.main([*FEW, "--out", str(folder)])
    return folder


@pytest.mark.parametrize("lines", [0, 2, 5])
def test_killed_at_any_line_it_ends_with_the_same_table(finished, tmp_path, lines):
    whole = (finished / "pictures.jsonl").read_text().splitlines(keepends=True)
    torn = whole[lines][: len(whole[lines]) // 2]
    (tmp_path / "pictures.jsonl").write_text("".join(whole[:lines]) + torn)
    compare.main([*FEW, "--out", str(tmp_path)])
    assert (tmp_path / "table.md").read_text() == (finished / "table.md").read_text()


def test_a_finished_comparison_is_not_done_again(finished, tmp_path, monkeypatch):
    shutil.copy(finished / "pictures.jsonl", tmp_path)
    monkeypatch.setattr(compare, "draw_batch", lambda *_: pytest.fail("drawn again"))
    compare.main([*FEW, "--out", str(tmp_path)])


def test_other_options_do_not_mix_into_the_same_folder(finished, capsys):
    with pytest.raises(SystemExit):
        compare.main([*FEW, "--seed", "9", "--out", str(finished)])
    assert "another folder" in capsys.readouterr().err


def test_the_control_is_as_strong_as_what_it_controls(finished):
    lines = [json.loads(line) for line in (finished / "pictures.jsonl").read_text().splitlines()[1:]]
    scales = {(each["arm"], each["scale"], each["index"]): each["mean_scale"] for each in lines}
    assert len(lines) == len(scales) == 3 * 2
    for (arm, scale, index), strength in scales.items():
        if arm == "matched:default":
            assert strength == pytest.approx(scales["scfg:default", scale, index], rel=1e-6)
        if arm == "cfg":
            assert strength == scale


def test_better_and_worse_are_counted_by_prompt():
    ours = [{"phrases": [True, True]}, {"phrases": [False]}, {"phrases": [True, False]}]
    theirs = [{"phrases": [True, False]}, {"phrases": [True]}, {"phrases": [False, True]}]
    result = compare_arms(ours, theirs)
    assert (result["better"], result["worse"], result["p"]) == (1, 1, 1.0)
    assert result["difference"].mean == pytest.approx(0.0)


@pytest.mark.parametrize(("better", "worse", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (1, 9, 22 / 1024)])
def test_sign_test(better, worse, p):
    assert sign_test(better, worse) == pytest.approx(p)


def test_a_caption_reads_back_as_it_was_meant():
    for told in draw(300, seed=7).descriptions:
        assert parse(told.caption.split()) == told


@pytest.mark.parametrize("text", ["red circle", "a circle", "a red circle on the green background", "the left", ""])
def test_what_is_no_caption_is_not_judged(text):
    assert parse(text.split()) is None


def test_places_of_true_scenes_are_found_and_mirrored_ones_are_not():
    scenes = draw(300, seed=8)
    answers = [right for told in places_right(scenes.images, scenes.descriptions) for right in told]
    turned = torch.flip(scenes.images, dims=(2, 3))
    mirrored = [right for told in places_right(turned, scenes.descriptions) for right in told]
    assert len(answers) > 50
    assert sum(answers) / len(answers) > 0.97
    assert sum(mirrored) / len(mirrored) < 0.03
