"""The host offers the pack's blueprints in its node library, and they run as they are."""

import json

import numpy as np
import pytest

from . import host
from .blueprints import BLUEPRINTS, written_out
from .graphs import demo, node, sampled
from .server import FOLDER, Server

SCENE = "a yellow tent and a blue house on grass at noon"
PARTS = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "latent_image": ["4", 0]}
HOW = {"prompt": SCENE, "negative_prompt": "", "seed": 1, "steps": 4, "cfg": 5.0}


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def test_the_host_lists_every_blueprint_and_serves_it(server):
    if host.version() < (0, 33):
        pytest.skip("older hosts have no blueprints of packs")
    listed = {
        entry["name"]: key
        for key, entry in server.get("/global_subgraphs").items()
        if entry["info"]["node_pack"] == f"custom_nodes.{FOLDER}"
    }
    assert sorted(listed) == [path.stem for path in BLUEPRINTS] and len(listed) == 2
    for path in BLUEPRINTS:
        served = server.get(f"/global_subgraphs/{listed[path.stem]}")
        assert json.loads(served["data"]) == json.loads(path.read_text())


def plain(server):
    run = server.run(sampled(demo(SCENE), "s", ["1", 0]))
    assert run.error is None, run.error
    return run.pictures["s_file"][0]


def test_the_sampler_with_views_guides_and_shows_what_it_did(server):
    prompt, outputs = written_out("S-CFG Sampler with Views", "10", **PARTS, **HOW)
    prompt |= demo("") | {"file": node("SaveImage", images=outputs["image"], filename_prefix="blueprint")}
    run = server.run(prompt)
    assert run.error is None, run.error
    assert [text for _, text in run.texts if text.startswith("S-CFG active: ")]
    assert not np.array_equal(run.pictures["file"][0], plain(server))
    for name in ("regions", "scale_map", "curves"):
        (view,) = run.pictures[outputs[name][0]]
        assert view.std() > 5 and view.shape[1] > 300


def test_the_mask_from_words_leaves_the_image_and_marks_a_part_of_it(server):
    prompt, outputs = written_out("S-CFG Mask from Words", "10", **PARTS, **HOW, words="yellow tent", mode="hard")
    prompt |= demo("") | {
        "file": node("SaveImage", images=outputs["image"], filename_prefix="blueprint"),
        "as_image": node("MaskToImage", mask=outputs["mask"]),
        "mask": node("SaveImage", images=["as_image", 0], filename_prefix="mask"),
    }
    run = server.run(prompt)
    assert run.error is None, run.error
    image, mask = run.pictures["file"][0], run.pictures["mask"][0]
    assert np.array_equal(image, plain(server))
    assert mask.shape == image.shape and 0.02 < (mask > 127).mean() < 0.6
