"""The command from its options to its files, with the weights that ship."""

import json

import pytest
import torch
from PIL import Image

import demo.command as command
from demo.model import load_model
from demo.sample import sample, starting_noise
from demo.words import COLOURS
from scfg_core import Settings

PROMPT = "a red boat on the left and a blue cat on the right"
FEW = ["--prompt", PROMPT, "--steps", "2"]


@pytest.fixture(scope="module")
def model():
    return load_model()


def test_the_command_writes_its_sheets_and_figures(tmp_path, capsys):
    command.main([*FEW, "--out", str(tmp_path / "a" / "b")])
    assert sorted(file.name for file in (tmp_path / "a" / "b").iterdir()) == sorted(command.FILES)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    for name, smallest in {"comparison.png": (900, 250), "steps.png": (420, 600), "norms.png": (900, 250)}.items():
        with Image.open(tmp_path / "a" / "b" / name) as picture:
            assert picture.mode == "RGB"
            assert picture.size[0] >= smallest[0] and picture.size[1] >= smallest[1]
    result = json.loads((tmp_path / "a" / "b" / "result.json").read_text())
    assert (result["seed"], result["scale"], result["steps"], result["preset"]) == (0, 3.0, 2, "default")
    (figures,) = result["prompts"]
    assert figures["prompt"] == PROMPT
    assert figures["mean_guidance"] > 1
    assert figures["change_from_cfg"] > 0 and figures["change_from_cfg_of_the_same_mean"] > 0
    shown = capsys.readouterr().out
    assert PROMPT in shown and "comparison.png" in shown


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    for name, seed in (("one", "5"), ("two", "5"), ("other", "6")):
        command.main([*FEW, "--seed", seed, "--preset", "paper", "--out", str(tmp_path / name)])
    for file in ("comparison.png", "steps.png", "norms.png"):
        first, second, other = ((tmp_path / name / file).read_bytes() for name in ("one", "two", "other"))
        assert first == second
        assert first != other


@pytest.mark.parametrize(
    "bad",
    [
        ["--prompt", "a red horse"],
        ["--prompt", "a red boat " * 8],
        ["--scale", "0.5"],
        ["--scale", "nan"],
        ["--steps", "0"],
        ["--steps", "many"],
        ["--seed", "-1"],
        ["--preset", "best"],
        ["--sampler", "euler"],
        ["--weights", "nowhere.safetensors"],
    ],
)
def test_a_bad_option_writes_nothing(tmp_path, bad):
    with pytest.raises(SystemExit, match="2"):
        command.main([*FEW, *bad, "--out", str(tmp_path / "out")])
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        command.main([*FEW, "--out", str(tmp_path / "out")])
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unknown_word_is_told_with_the_words_that_there_are(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--prompt", "a red horse", "--out", str(tmp_path)])
    shown = capsys.readouterr().err
    assert "horse" in shown
    assert all(colour in shown for colour in COLOURS)


def test_a_failure_while_drawing_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "comparison.png").write_text("old")

    def fail(*_):
        raise RuntimeError("no norms today")

    monkeypatch.setattr(command, "norms", fail)
    with pytest.raises(RuntimeError, match="no norms"):
        command.main([*FEW, "--out", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["comparison.png"]
    assert (tmp_path / "comparison.png").read_text() == "old"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp"])
def test_scfg_leaves_the_next_plain_picture_as_it_was(model, sampler):
    def draw(settings):
        options = {"scale": 5.0, "steps": 3, "sampler": sampler}
        return sample(model, [PROMPT], starting_noise([1]), settings=settings, **options).images

    plain, guided = draw(None), draw(Settings.preset("default"))
    assert torch.isfinite(guided).all()
    assert not torch.equal(guided, plain)
    assert torch.equal(draw(None), plain)
    assert torch.equal(draw(Settings(strength=0)), plain)


def test_every_step_and_word_of_a_run_is_recorded(model):
    sampled = sample(model, [PROMPT], starting_noise([1]), scale=5.0, settings=Settings(), steps=4)
    assert len(sampled.inputs) == len(sampled.clean) == 4
    assert [sampled.run.step_of(each) for each in sampled.run.evaluations] == [0, 1, 2, 3]
    (prompt,) = sampled.run.prompts
    spelled = prompt.words_with_labels()
    assert [text for text, _ in spelled] == ["a red boat on the left", "and", "a blue cat on the right"]
    assert [label for _, labels in spelled for label in labels] == list(range(1, 1 + len(PROMPT.split())))
    assert prompt.texts[0] == "<start>"
    assert prompt.texts[1 + len(PROMPT.split())] == "<end>"


def test_noise_of_a_seed_is_the_same_in_any_batch():
    assert torch.equal(starting_noise([3, 4])[1], starting_noise([4])[0])
