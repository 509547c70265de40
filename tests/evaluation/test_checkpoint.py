"""The paper's grid on a checkpoint folder, tried on tiny random ones from the command line to the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from evaluation import checkpoint, pipelines
from evaluation.arms import MAIN
from evaluation.distances import ALL_SCALES
from evaluation.prompts import read_prompts
from evaluation.store import Store
from scfg_core import ScfgError

from ..diffusers.tiny import WIDTH, random
from .tiny import save_controlnet, save_pipeline, save_xl

ARMS = ("cfg", "default", "matched", "paper", "mean-preserving", "shuffled", "rescale")
GRID = [
    *("--prompts", "2", "--main-prompts", "4", "--batch", "2", "--steps", "2", "--device", "cpu", "--rounds", "4"),
    *("--scales", "3", "5", "--arms", *ARMS),
]
ONE_ARM = [
    *("--prompts", "2", "--batch", "2", "--steps", "2", "--device", "cpu", "--sampler", "dpmpp", "--size", "16"),
    *("--scales", "3", "--arms", "cfg", "default"),
]


def mean_colours(images):
    """A small stand-in for Inception: means and spreads of the colours."""
    pixels = torch.from_numpy(np.stack([np.asarray(image, dtype=np.float32) for image in images])) / 255
    return torch.cat((pixels.mean(dim=(1, 2)), pixels.std(dim=(1, 2))), dim=1)


def at_one_size(images):
    return mean_colours([np.asarray(Image.fromarray(image).resize((16, 16))) for image in images])


@pytest.fixture(scope="module")
def command(stable_diffusion, coco, clip):
    return [
        *(str(stable_diffusion), "--captions", str(coco / "captions.json"), "--images", str(coco / "images")),
        *("--clip", str(clip), "--clip-prompts", "2", *GRID),
    ]


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    checkpoint.main([*command, "--out", str(folder)], at_one_size)
    return folder


def found_in(folder: Path):
    store = Store(folder)
    store.read()
    return store.found


def test_the_table_has_every_arm_at_every_scale(finished):
    content = json.loads((finished / "table.json").read_text())
    rows = [(row["scale"], row["arm"]) for row in content["rows"]]
    assert sorted(rows) == sorted((scale, arm) for scale in (3.0, 5.0) for arm in ARMS)
    assert content["open"] == []
    distances = {(found["arm"], found["scale"]): found["n"] for found in content["frechet"]}
    assert distances == {(arm, scale): 4 if arm in MAIN else 2 for arm in ARMS for scale in (ALL_SCALES, 3.0, 5.0)}
    assert all((finished / f"{name}.png").exists() for name in ("tradeoff", "dose", "ablation", "spread"))
    assert all("clip" in row["measures"] for row in content["rows"])


def test_watched_cfg_draws_what_the_pipeline_draws(finished, stable_diffusion, coco):
    pipeline = StableDiffusionPipeline.from_pretrained(stable_diffusion, local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    captions = [prompt.caption for prompt in read_prompts(coco / "captions.json", 2)]
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    plain = pipeline(
        captions, num_inference_steps=2, guidance_scale=5.0, generator=generators, output_type="np"
    ).images
    for index in range(2):
        kept = Store(finished).image("cfg", 5.0, index)
        assert np.array_equal(kept, (plain[index] * 255).round().astype(np.uint8))
        assert not np.array_equal(kept, Store(finished).image("default", 5.0, index))


def test_clip_scores_are_those_of_the_model_itself(finished, clip):
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    captions = json.loads((finished / "captions.json").read_text())
    values = []
    for (arm, scale, index), record in found_in(finished).items():
        if "clip" in record:
            image = Store(finished).image(arm, scale, index)
            inputs = processor(text=[captions[index]], images=[Image.fromarray(image)], return_tensors="pt")
            with torch.no_grad():
                direct = max(0.0, 100 * float(torch.cosine_similarity(*embeddings(model, inputs))))
            assert record["clip"] == pytest.approx(direct, abs=1e-3)
            values.append(direct)
    assert len(values) == len(ARMS) * 2 * 2
    assert max(values) > 0


def embeddings(model, inputs):
    output = model(**inputs)
    return output.text_embeds, output.image_embeds


def test_two_processes_give_what_one_gives(finished, command, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    work = [*launch, "evaluation", "checkpoint", *command, "--rounds", "-1", "--out", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(work, check=True, env=environment, capture_output=True, timeout=300)
    assert len(list((tmp_path / "records").iterdir())) == 2
    one, two = found_in(finished), found_in(tmp_path)
    for key, record in one.items():
        assert two[key].pop("clip", 0) == pytest.approx(record.get("clip", 0), rel=1e-4)
        assert two[key] == {name: value for name, value in record.items() if name != "clip"}
    assert len(one) == len(two)


def test_started_again_nothing_is_drawn_or_looked_at_twice(finished, command, monkeypatch):
    before = (finished / "table.md").read_text(), (finished / "records" / "00000.jsonl").read_bytes()
    monkeypatch.setattr(checkpoint.Pipelines, "draw", lambda *_: pytest.fail("drawn again"))
    checkpoint.main([*command, "--out", str(finished)], lambda _: pytest.fail("looked at again"))
    assert ((finished / "table.md").read_text(), (finished / "records" / "00000.jsonl").read_bytes()) == before


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' DPM-Solver++
def test_a_controlnet_draws_under_its_condition_pictures(stable_diffusion, coco, tmp_path):
    network = save_controlnet(tmp_path / "controlnet")
    conditions = tmp_path / "conditions"
    conditions.mkdir()
    for path in (coco / "images").iterdir():
        Image.new("RGB", (16, 16), (200, 30, 30)).save(conditions / f"{path.stem}.jpg")
    work = [str(stable_diffusion), "--captions", str(coco / "captions.json"), *ONE_ARM]
    with_network = ["--controlnet", str(network), "--conditions", str(conditions)]
    checkpoint.main([*work, "--out", str(tmp_path / "plain")])
    checkpoint.main([*work, *with_network, "--out", str(tmp_path / "guided")])
    plain, guided = Store(tmp_path / "plain"), Store(tmp_path / "guided")
    for arm in ("cfg", "default"):
        assert not np.array_equal(plain.image(arm, 3.0, 0), guided.image(arm, 3.0, 0))
    assert not np.array_equal(guided.image("cfg", 3.0, 0), guided.image("default", 3.0, 0))


def test_sdxl_draws_from_its_two_text_encoders(coco, tmp_path):
    work = [str(save_xl(tmp_path / "model")), "--captions", str(coco / "captions.json"), *ONE_ARM]
    checkpoint.main([*work, "--sampler", "ddim", "--out", str(tmp_path / "out")])
    store = Store(tmp_path / "out")
    for index in range(2):
        assert not np.array_equal(store.image("cfg", 3.0, index), store.image("default", 3.0, index))
    assert found_in(tmp_path / "out")["default", 3.0, 0]["spread"] > 0


@pytest.mark.parametrize("arm", ["apg", "true-regions"])
def test_arms_that_pipelines_cannot_draw_are_refused(stable_diffusion, coco, arm):
    with pytest.raises(SystemExit):
        checkpoint.main([str(stable_diffusion), "--captions", str(coco / "captions.json"), "--arms", "cfg", arm])


def test_deepfloyd_draws_in_two_stages_from_one_text(coco, tmp_path, monkeypatch):
    def text(self, captions):  # stands for T5, of which there is no tiny one
        return {
            "prompt_embeds": torch.cat([random(1, 7, WIDTH, seed=len(caption)) for caption in captions]),
            "negative_prompt_embeds": random(1, 7, WIDTH, seed=0).expand(len(captions), -1, -1),
        }

    monkeypatch.setattr(pipelines.Pipelines, "_text", text)
    first, second = (save_pipeline(f"IF {stage}", tmp_path / stage) for stage in ("I", "II"))
    work = [str(first), "--second-stage", str(second), "--captions", str(coco / "captions.json"), *ONE_ARM]
    checkpoint.main([*work, "--sampler", "ddim", "--out", str(tmp_path / "out")])
    store = Store(tmp_path / "out")
    assert store.image("cfg", 3.0, 0).shape == (16, 16, 3)
    for index in range(2):
        assert not np.array_equal(store.image("cfg", 3.0, index), store.image("default", 3.0, index))
    assert found_in(tmp_path / "out")["default", 3.0, 0]["spread"] > 0


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path, coco):
    with pytest.raises(ScfgError, match="model_index.json"):
        checkpoint.main([str(tmp_path), "--captions", str(coco / "captions.json"), *GRID, "--out", str(tmp_path)])


def test_pictures_that_are_not_there_are_missed_before_anything_is_drawn(
    stable_diffusion, coco, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "draw_missing", lambda *_: pytest.fail("drawn"))
    (tmp_path / "prompts.txt").write_text("a cat\n" * 4)
    for captions, images, word in (
        (tmp_path / "prompts.txt", coco / "images", "named images"),
        (coco / "captions.json", tmp_path, "got none"),
    ):
        command = [str(stable_diffusion), "--captions", str(captions), "--images", str(images), *ONE_ARM]
        with pytest.raises(ScfgError, match=word):
            checkpoint.main([*command, "--out", str(tmp_path / "out")], mean_colours)


def test_a_scale_without_guidance_is_drawn_and_has_nothing_to_measure(stable_diffusion, coco, tmp_path):
    options = [*ONE_ARM, "--scales", "1", "--sampler", "ddim"]
    command = [str(stable_diffusion), "--captions", str(coco / "captions.json"), *options]
    checkpoint.main([*command, "--out", str(tmp_path)])
    found = found_in(tmp_path)
    assert set(found) == {("cfg", 1.0, index) for index in range(2)}
    assert all("spread" not in record and record["mean_scale"] == 1 for record in found.values())


def test_coco_prompts_are_one_per_picture_and_longer_lists_begin_with_shorter_ones(coco):
    path = coco / "captions.json"
    few, many = read_prompts(path, 3), read_prompts(path, 7)
    assert many[:3] == few
    assert len({prompt.image for prompt in many}) == 7
    for prompt in many:
        assert prompt.caption == f"caption 0 of picture {int(Path(prompt.image).stem[5:])}"
    assert read_prompts(path, 7, seed=1) != many
    with pytest.raises(ScfgError, match="ask for fewer"):
        read_prompts(path, 8)


def test_lines_are_prompts_too(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n\n  two dogs \n")
    assert [prompt.caption for prompt in read_prompts(tmp_path / "prompts.txt", 2)] == ["a cat", "two dogs"]


def test_another_json_is_refused(tmp_path):
    (tmp_path / "prompts.json").write_text("[]")
    with pytest.raises(ScfgError, match="annotations"):
        read_prompts(tmp_path / "prompts.json", 1)
