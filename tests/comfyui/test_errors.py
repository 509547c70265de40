"""What a user gets wrong is said at once, in a sentence on the node, without the path of a class."""

import contextvars
import importlib
from types import SimpleNamespace

import pytest

from .graphs import demo, guidance, node, sampled
from .server import Server

SCENE = "a red boat and a blue cat"
ENTRY = "expected a word, a colon and a number, got 'horse 1.3': write entries like \"horse: 1.3\""


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def weighted(weights, **more):
    prompt = demo(SCENE) | {"5": guidance(word_weights=["w", 0]), "w": node("SCFGWordWeights", weights=weights)}
    return sampled(prompt | more, "s", ["5", 0], steps=1)


def masked(words, **result):
    how = {"mode": "hard", "over": "average of all steps", "step": -1, "feather": 0.0}
    prompt = demo(SCENE) | {
        "2": node("SCFGTextEncode", text=SCENE, clip=["1", 1]),
        "5": guidance(),
        "result": node("SCFGResult", trace=["5", 1], latent=["s", 0], **result),
        "m": node("SCFGTokenMask", result=["result", 0], words=words, **how),
        "as_image": node("MaskToImage", mask=["m", 0]),
        "file": node("SaveImage", images=["as_image", 0], filename_prefix="mask"),
    }
    return sampled(prompt, "s", ["5", 0], steps=1)


def refused(server, prompt):
    """What the host says of the nodes of a prompt that it does not run, by node."""
    answer = server.post("/prompt", {"prompt": prompt, "client_id": "nobody"})
    return {
        name: [each["details"] for each in found["errors"]] for name, found in answer.get("node_errors", {}).items()
    }


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("horse 1.3", ENTRY),
        ("boat: much", "expected a weight from 0 to 10 for 'boat', got 'much'"),
        ("boat: 1.5, boat: 2", "expected one weight of 'boat' in a part of the schedule, got two"),
    ],
)
def test_a_slip_in_word_weights_is_refused_before_anything_runs(server, weights, sentence):
    ((said,),) = refused(server, weighted(weights)).values()
    assert said.startswith(f"weights - {sentence}")


@pytest.mark.parametrize("words", ["", " , "])
def test_a_mask_of_no_words_is_refused_before_anything_runs(server, words):
    assert refused(server, masked(words) | {"s_file": masked("")["file"]})["m"] == [
        "words - expected words of the prompt, got none: write some, separated by commas"
    ]


def test_right_weights_and_a_text_that_is_not_known_yet_are_not_refused(server):
    assert refused(server, weighted("boat: 1.5, a blue cat: 0")) == {}
    run = server.run(weighted(["text", 0], text=node("PrimitiveString", value="horse 1.3")))
    assert (run.error or "").startswith(ENTRY)
    run = server.run(masked(["text", 0]) | {"text": node("PrimitiveString", value="")})
    assert "got none" in (run.error or "")


def test_an_error_at_run_time_is_a_sentence_on_its_node_and_has_no_class_path(server):
    run = server.run(masked("dragon"), client="typist")
    assert ("m", (run.error or "").strip()) in run.texts
    assert run.error.startswith("expected words of the prompt, got 'dragon': use some of red, boat")
    (error,) = [data for kind, data in run.events if kind == "execution_error"]
    assert error["exception_type"] == "ValueError"
    again = server.run(masked("boat"), client="typist")
    assert again.error is None and [text for name, text in again.texts if name == "m"] == [" "]
    assert [text for name, text in server.run(masked("cat"), client="typist").texts if name == "m"] == []


def test_what_is_refused_stands_on_its_node_in_the_page_that_queued_it(server):
    valid = sampled(demo(SCENE), "plain", ["1", 0], steps=1)
    run = server.run(valid | weighted("horse 1.3"), client="typist")
    ((name, said),) = [each for each in run.texts if each[0] == "w"]
    assert said.startswith(ENTRY)
    other = server.run(sampled(demo(SCENE), "plain", ["1", 0], steps=1, seed=2), client="another")
    assert other.texts == []
    better = server.run(valid | weighted("boat: 1.3"), client="typist")
    assert [each for each in better.texts if each[0] == "w"] == [("w", " ")]


def test_what_a_prompt_of_no_page_got_wrong_is_shown_on_no_page(pack, monkeypatch):
    """The server still knows the client whose prompt ran last."""
    errors = importlib.import_module(f"{pack.__name__}.nodes.errors")
    told = []
    monkeypatch.setattr(errors, "current_server", lambda: SimpleNamespace(client_id="typist"))
    monkeypatch.setattr(errors, "get_executing_context", lambda: SimpleNamespace(node_id="w"))
    monkeypatch.setattr(errors, "tell", lambda *what: told.append(what))

    def validated(queued):
        errors.remember_client(queued)
        return errors.problem(lambda text: refuse(errors, text), "horse 1.3")

    assert contextvars.copy_context().run(validated, {"prompt": {}}) == "no"
    assert told == []
    assert contextvars.copy_context().run(validated, {"prompt": {}, "client_id": "writer"}) == "no"
    assert told == [("w", "no", "writer")]


def refuse(errors, text):
    raise errors.ScfgError("no")
