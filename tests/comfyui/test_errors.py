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


AT_RUN_TIME = node("StringConcatenate", string_a=SCENE, string_b="", delimiter="")


def masked(words, text=SCENE, **result):
    how = {"mode": "hard", "over": "average of all steps", "step": -1, "feather": 0.0}
    prompt = demo(SCENE) | {
        "2": node("SCFGTextEncode", text=text, clip=["1", 1]),
        "5": guidance(),
        "result": node("SCFGResult", trace=["5", 1], latent=["s", 0], **result),
        "m": node("SCFGTokenMask", result=["result", 0], words=words, **how),
        "as_image": node("MaskToImage", mask=["m", 0]),
        "file": node("SaveImage", images=["as_image", 0], filename_prefix="mask"),
    }
    return sampled(prompt, "s", ["5", 0], steps=1)


FOLLOWED = {
    "mode": "hard",
    "feather": 0.0,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "freeze_after": 1.0,
    "blend": 1,
    "min_share": 0.0,
    "max_share": 1.0,
    "fallback": "nowhere",
}


@pytest.fixture(scope="module")
def spelling(pack):
    return importlib.import_module(f"{pack.__name__}.nodes.spelling")


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
    run = server.run(masked("dragon", ["late", 0]) | {"late": AT_RUN_TIME}, client="typist")
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


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("red boot", "expected words of the prompt, got 'red boot': did you mean 'red boat'?"),
        ("cat, dragon", "expected words of the prompt, got 'dragon': use some of red, boat, blue, cat"),
    ],
)
def test_a_word_that_no_prompt_has_is_refused_before_anything_runs(server, words, sentence):
    assert refused(server, masked(words) | {"s_file": masked(words)["file"]})["m"] == [f"words - {sentence}"]
    prompt = demo(SCENE) | {
        "follows": node("SCFGFollowWords", conditioning=["2", 0], words=words, **FOLLOWED),
        "both": node("ConditioningCombine", conditioning_1=["2", 0], conditioning_2=["follows", 0]),
        "5": guidance(),
    }
    prompt = sampled(prompt, "s", ["5", 0], steps=1)
    prompt["s"]["inputs"]["positive"] = ["both", 0]
    assert refused(server, prompt)["follows"] == [f"words - {sentence}"]


def test_a_weighted_word_that_no_prompt_has_is_named_on_its_node_and_the_run_goes_on(server):
    said = "no prompt has the word 'boot': did you mean 'boat'?"
    run = server.run(weighted("boot: 2, cat: 1.5"), client="typist")
    assert run.error is None and "w" in run.executed
    assert [text for name, text in run.texts if name == "w"] == [said, said]  # before the run, and once it has run
    better = server.run(weighted("boat: 2, cat: 1.5"), client="typist")
    assert better.error is None
    assert [text for name, text in better.texts if name == "w"] == [" "]


def encoded(**texts):
    return {name: node("CLIPTextEncode", text=text, clip=["clip", 0]) for name, text in texts.items()}


@pytest.mark.parametrize(
    "word", ["horse", "White Horse", "horse white", "white-horse", "token 3", "no word (end)", "ＨＯＲＳＥ"]
)
@pytest.mark.parametrize(
    "text", ["a (white:1.2) horse", "WHITE horse,", "((a white horse))", "a whitehorse", "(wh:1.1)ite horse"]
)
def test_a_word_that_a_prompt_may_have_is_never_called_unknown(spelling, word, text):
    assert spelling.unknown_in(encoded(positive=text, negative="blurry"), [word]) is None


@pytest.mark.parametrize(
    "nodes",
    [
        {"late": AT_RUN_TIME, "2": node("CLIPTextEncode", text=["late", 0], clip=["clip", 0])},
        {"2": node("unCLIPConditioning", conditioning=["absent", 0], strength=1.0)},
        {"2": node("PrimitiveString", value=["2", 0]), "3": node("CLIPTextEncode", text=["2", 0])},
        {"2": node("CLIPTextEncode", clip=["clip", 0])},
        {"2": node("CLIPTextEncode", text="a __beast__", clip=["clip", 0])},
        {"2": node("CLIPTextEncodeFlux", clip_l="a cat", t5xxl=["elsewhere", 0])},
    ],
)
def test_nothing_is_called_unknown_where_a_prompt_is_known_only_when_it_runs(spelling, nodes):
    assert spelling.unknown_in(encoded(negative="blurry"), ["dragon"]) is not None
    assert spelling.unknown_in(encoded(negative="blurry") | nodes, ["dragon"]) is None


@pytest.mark.parametrize("nodes", [{}, {"2": {}}, {"2": node("NodeOfAnotherPack", text="a cat")}])
def test_a_workflow_without_prompts_has_no_unknown_words(spelling, nodes):
    assert spelling.unknown_in(nodes, ["dragon"]) is None


@pytest.mark.parametrize(
    ("word", "text", "advice"),
    [
        ("the boot", "a boat in the sky", "did you mean 'the boat'?"),
        ("blue boot", "a theme of a blue boat", "did you mean 'blue boat'?"),
        ("dragon", "🐉 on 3", "write words of the prompt"),
    ],
)
def test_the_nearest_words_of_the_prompts_are_named(spelling, word, text, advice):
    assert spelling.unknown_in(encoded(positive=text), [word]) == f"{word!r}: {advice}"


def test_a_prompt_that_another_pack_exchanges_is_read_as_it_is_then(pack, spelling):
    queue = importlib.import_module(f"{pack.__name__}.nodes.queue")

    def validated(queued):
        queue.remember_prompt(queued)
        queued["prompt"] = encoded(positive="a horse")
        return spelling.unknown_words(["horse"]), spelling.unknown_words(["wolf"])

    queued = {"prompt": encoded(positive="an animal"), "client_id": "typist"}
    assert contextvars.copy_context().run(validated, queued) == (None, "'wolf': use some of horse")


def test_a_text_of_its_own_node_and_one_added_to_a_conditioning_are_texts_of_prompts(spelling):
    nodes = {
        "text": node("PrimitiveString", value="a horse"),
        "2": node("CLIPTextEncode", text=["text", 0], clip=["clip", 0]),
        "3": node("ConditioningSetAreaStrength", conditioning=["2", 0], strength="a dragon"),
    }
    assert spelling.unknown_in(nodes, ["horse", "dragon"]) is None
    assert spelling.unknown_in(nodes, ["cat"]) == "'cat': use some of horse, dragon"


def test_what_a_prompt_of_no_page_got_wrong_is_shown_on_no_page(pack, monkeypatch):
    """The server still knows the client whose prompt ran last."""
    errors = importlib.import_module(f"{pack.__name__}.nodes.errors")
    told = []
    queue = importlib.import_module(f"{pack.__name__}.nodes.queue")
    monkeypatch.setattr(errors, "current_server", lambda: SimpleNamespace(client_id="typist"))
    monkeypatch.setattr(errors, "get_executing_context", lambda: SimpleNamespace(node_id="w"))
    monkeypatch.setattr(errors, "tell", lambda *what: told.append(what))

    def validated(queued):
        queue.remember_prompt(queued)
        return errors.problem(lambda text: refuse(errors, text), "horse 1.3")

    assert contextvars.copy_context().run(validated, {"prompt": {}}) == "no"
    assert told == []
    assert contextvars.copy_context().run(validated, {"prompt": {}, "client_id": "writer"}) == "no"
    assert told == [("w", "no", "writer")]


def refuse(errors, text):
    raise errors.ScfgError("no")
