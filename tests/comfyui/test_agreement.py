"""S-CFG Curves reads how far two ways of collecting maps agree: two watched samplers, one seed."""

import pytest

from .graphs import demo, guidance, node, sampled
from .server import Server

SCENE = "a red boat and a blue cat"


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def watching(**changes):
    how = {"power_steps": 4, "self_attention": True, "layers": "all", "memory_budget": 256, "update_every": 1}
    return node("SCFGAttention", model=["1", 0], **how | changes)


def compared(one, other, prompt=None, **sampling):
    """`said` shows how two models' runs agree, `curves` has it under the charts; `alone` compares nothing."""
    prompt = (prompt or demo(SCENE)) | {"one": one, "other": other}
    for name in ("one", "other"):
        prompt = sampled(prompt, f"{name}_s", [name, 0], seed=5, **(sampling if name == "other" else {}))
        prompt[f"{name}_result"] = node("SCFGResult", trace=[name, 1], latent=[f"{name}_s", 0])
    shown = {"result": ["one_result", 0], "batch_index": 0}
    return prompt | {
        "curves": node("SCFGCurves", **shown, compare_with=["other_result", 0]),
        "alone": node("SCFGCurves", **shown),
        "said": node("PreviewAny", source=["curves", 1]),
        "silent": node("PreviewAny", source=["alone", 1]),
    }


def texts(run):
    assert run.error is None, run.error
    shown = [data for kind, data in run.events if kind == "executed" and "text" in (data["output"] or {})]
    return {data["node"]: data["output"]["text"][0] for data in shown}


def test_the_same_layers_agree_wholly_and_the_picture_says_so(server):
    run = server.run(compared(watching(), watching(layers="auto")))
    assert texts(run) == {"said": "labels 1.000, foreground 1.000 over 4 evaluations", "silent": ""}
    assert run.pictures["curves"][0].shape[0] > run.pictures["alone"][0].shape[0]


@pytest.mark.parametrize("changes", [{"layers": "last"}, {"update_every": 2}])
def test_another_way_of_collecting_agrees_in_part(server, changes):
    said = texts(server.run(compared(watching(), watching(**changes))))["said"]
    labels, foreground = (float(part.split()[1]) for part in said.split(" over ")[0].split(", "))
    assert said.endswith(" over 4 evaluations")
    assert 0.5 < labels < 1 and 0.5 < foreground <= 1


def test_a_guided_run_is_another_picture(server):
    said = texts(server.run(compared(watching(), guidance())))["said"]
    assert said.endswith(" over 4 evaluations of different images")


def test_other_words_are_an_error_that_says_what_to_do(server):
    prompt = demo(SCENE) | {
        "2": node("SCFGTextEncode", text=SCENE, clip=["1", 1]),
        "20": node("SCFGTextEncode", text="a green star", clip=["1", 1]),
    }
    run = server.run(compared(watching(), watching(), prompt, positive=["20", 0]))
    assert "expected two runs of the same prompt" in (run.error or "")
