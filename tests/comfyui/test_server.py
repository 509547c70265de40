"""A whole ComfyUI server: the pack found under any folder name, workflows posted, pictures looked at."""

import urllib.error
import urllib.request

import numpy as np
import pytest

from .graphs import demo, guidance, node, sampled
from .server import FOLDER, Server

SCENE = "a red boat and a blue cat"
CFG, SCFG, ZERO = "cfg", "scfg", "zero"


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def compared(server):
    """One run: plain CFG, S-CFG, and S-CFG of strength 0, from the same noise."""
    prompt = demo(SCENE) | {"5": guidance(), "6": guidance(strength=0.0)}
    prompt = sampled(prompt, CFG, ["1", 0])
    prompt = sampled(prompt, SCFG, ["5", 0])
    prompt = sampled(prompt, ZERO, ["6", 0])
    run = server.run(prompt)
    assert run.error is None, run.error
    return run


def picture(run, name):
    (found,) = run.pictures[f"{name}_file"]
    return found


def test_the_pack_loads_without_a_complaint(server):
    log = server.log()
    assert "IMPORT FAILED" not in log
    assert FOLDER in log


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("SCFGDemoModel", [], ["MODEL", "CLIP", "VAE"]),
        ("SCFGAttention", ["model"], ["MODEL", "SCFG_TRACE"]),
        ("SCFGGuidance", ["model"], ["MODEL", "SCFG_TRACE"]),
    ],
)
def test_every_node_is_described(server, name, inputs, outputs):
    info = server.get(f"/object_info/{name}")[name]
    assert info["category"] == "S-CFG"
    assert info["display_name"].startswith("S-CFG ")
    assert info["description"]
    assert info["output"] == outputs
    assert list(info["input"].get("required", {}))[: len(inputs)] == inputs
    described = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    assert [name for name, (_, options) in described.items() if not options.get("tooltip")] == []


def test_pictures_have_the_size_that_was_asked_for(compared):
    assert {name: picture(compared, name).shape for name in (CFG, SCFG, ZERO)} == dict.fromkeys(
        (CFG, SCFG, ZERO), (256, 256, 3)
    )


def test_pictures_are_not_flat(compared):
    assert all(picture(compared, name).std() > 5 for name in (CFG, SCFG))


def test_guidance_by_region_changes_the_picture(compared):
    assert np.abs(picture(compared, SCFG).astype(int) - picture(compared, CFG)).max() > 3


def test_strength_zero_is_plain_cfg_pixel_for_pixel(compared):
    assert np.array_equal(picture(compared, ZERO), picture(compared, CFG))


def test_the_guidance_node_tells_its_status(compared):
    said = dict(compared.texts)
    assert said["5"].startswith("S-CFG active: ")
    assert "24 tokens, 1 prompt, mean γ " in said["5"] and ", maps by PyTorch" in said["5"]
    assert said["6"].startswith("S-CFG observing: ")


def test_a_client_that_did_not_ask_gets_no_live_frames(compared):
    assert [kind for kind, _ in compared.events if kind.startswith("scfg")] == []


def test_a_client_that_asks_gets_every_step_at_the_end(server):
    server.post("/scfg/live", {"client": "asks", "interval": 60})
    run = server.run(sampled(demo(SCENE) | {"5": guidance(strength=0.9)}, SCFG, ["5", 0]), client="asks", frames=4)
    assert [frame["index"] for frame in run.frames] == [0, 1, 2, 3]
    assert {frame["node"] for frame in run.frames} == {"5"}
    assert all(abs(sum(word["area"] for word in frame["words"]) - 1) < 1e-6 for frame in run.frames)


@pytest.mark.parametrize("path", ["/scfg/live", "/scfg/runs"])
@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b"{", b"", b"\xff"])
def test_a_body_that_is_no_object_is_refused_with_a_sentence(server, path, body):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(server.url + path, body), timeout=60)
    assert refused.value.code == 400
    assert refused.value.read().startswith(b"expected {")


def test_every_run_is_logged_in_one_line(compared, server):
    assert server.log().count("S-CFG active: ") >= 1


def test_sizes_that_fit_no_grid_evenly(server):
    prompt = sampled(demo(SCENE, width=200, height=328, batch=2) | {"5": guidance()}, SCFG, ["5", 0], steps=2)
    run = server.run(prompt)
    assert run.error is None
    assert [each.shape for each in run.pictures["scfg_file"]] == [(328, 200, 3)] * 2


def test_attention_alone_leaves_the_picture_as_it_is(server, compared):
    watched = node(
        "SCFGAttention",
        model=["1", 0],
        power_steps=4,
        self_attention=True,
        layers="auto",
        memory_budget=256,
        update_every=1,
    )
    run = server.run(sampled(demo(SCENE) | {"5": watched}, SCFG, ["5", 0]))
    assert np.array_equal(picture(run, SCFG), picture(compared, CFG))


def test_only_what_depends_on_a_changed_setting_runs_again(server):
    server.run(sampled(demo(SCENE) | {"5": guidance(strength=0.4)}, SCFG, ["5", 0], steps=2))
    again = server.run(sampled(demo(SCENE) | {"5": guidance(strength=0.5)}, SCFG, ["5", 0], steps=2))
    assert again.executed == ["5", "scfg", "scfg_pixels", "scfg_file"]


def test_an_equal_node_under_another_number_speaks_for_itself(server):
    """The host gives a node the cached outputs of an equal one, unless it is told not to."""
    said = []
    for name, seed in (("5", 11), ("15", 12)):
        run = server.run(sampled(demo(SCENE) | {name: guidance(strength=0.7)}, SCFG, [name, 0], seed, steps=2))
        said.append([node for node, _ in run.texts])
    assert said == [["5"], ["15"]]


def test_a_word_that_the_demo_model_does_not_know_is_skipped_and_named_on_the_text_node(server):
    run = server.run(sampled(demo("a purple elephant on grass"), CFG, ["1", 0], steps=1))
    assert run.error is None, run.error
    ((node_id, text),) = run.texts
    assert node_id == "2"
    assert "skipped elephant" in text and "mushroom" in text


def test_a_graph_with_words_of_the_former_demo_model_still_runs(server):
    text = "a yellow triangle and a blue square on a green background"
    prompt = demo("") | {
        "2": node("SCFGTextEncode", text=text, clip=["1", 1]),
        "5": guidance(word_weights=["weights", 0]),
        "weights": node("SCFGWordWeights", weights="triangle: 2, square: 1"),
        "result": node("SCFGResult", trace=["5", 1], latent=["scfg", 0]),
        "mask": node(
            "SCFGTokenMask",
            result=["result", 0],
            words="yellow triangle",
            mode="hard",
            over="average of all steps",
            step=-1,
            feather=0.0,
        ),
        "as_image": node("MaskToImage", mask=["mask", 0]),
        "file": node("SaveImage", images=["as_image", 0], filename_prefix="mask"),
    }
    run = server.run(sampled(prompt, SCFG, ["5", 0], steps=2))
    assert run.error is None, run.error
    assert any("triangle (drawn as tent)" in text for _, text in run.texts)
