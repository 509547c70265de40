"""The live view on the server's side: to whom frames go, how many, and on which thread."""

import base64
import gc
import importlib
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch

CLIENT, NODE, SAMPLER = "a client", "12:5", "9"
FRAME, END = "scfg.step", "scfg.run"
GRID, SIDE = 64, 256
STEPS = 12


class FakeServer:
    """A server whose only client keeps what it is sent; `slow` makes it take its time."""

    def __init__(self) -> None:
        self.client_id: str | None = CLIENT
        self.sockets = {CLIENT: object()}
        self.prompt_queue = SimpleNamespace(currently_running={}, get_history=lambda **_: {})
        self.queue("a prompt", a_prompt())
        self.sent: list[tuple[str, dict, str]] = []
        self.threads: set[int] = set()
        self.slow = threading.Event()
        self.slow.set()

    def queue(self, number: str, nodes: dict, graph: str = "a graph") -> None:
        """Run this prompt from now on."""
        workflow = {"extra_pnginfo": {"workflow": {"id": graph}}}
        self.prompt_queue.currently_running = {0: (0, number, nodes, workflow, [])}

    def send_sync(self, event: str, data: dict, client: str) -> None:
        self.slow.wait(30)
        if event == FRAME:
            self.threads.add(threading.get_ident())
        self.sent.append((event, data, client))

    def ends(self) -> list[dict]:
        return [data for event, data, _ in self.sent if event == END]

    def frames(self, count: int) -> list[dict]:
        """The frames that were sent, once they are so many."""
        deadline = time.monotonic() + 60
        while len(self._frames()) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        return self._frames()

    def _frames(self) -> list[dict]:
        return [data for event, data, _ in self.sent if event == FRAME]


def a_prompt(seed: int = 1, node: str = NODE, sampler: str = SAMPLER) -> dict:
    """A prompt in API form: a model, our node on it, a sampler."""
    return {
        "1": {"class_type": "Loader", "inputs": {"name": "a model"}},
        node: {"class_type": "SCFGGuidance", "inputs": {"model": ["1", 0], "strength": 1.0}},
        sampler: {"class_type": "KSampler", "inputs": {"model": [node, 0], "seed": seed}},
    }


@pytest.fixture(scope="module")
def parts(pack):
    """Modules of the pack under their own names."""
    wanted = {"live": "nodes.live", "pages": "nodes.pages", "record": "scfg_core.run.record"}
    wanted |= {"prompt": "scfg_core.prompt", "queue": "nodes.queue", "routes": "nodes.routes"}
    found = {key: importlib.import_module(f"{pack.__name__}.{path}") for key, path in wanted.items()}
    return SimpleNamespace(**found)


@pytest.fixture
def server(parts, monkeypatch):
    made = FakeServer()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=made)))
    parts.pages.subscribe(CLIENT, 0.0)
    return made


def a_run(parts):
    texts = ("<start>", *(f"word{index}" for index in range(75)), "<end>")
    numbers = (-1, *range(75), -1)
    return parts.record.Run(
        prompts=[parts.prompt.Prompt.plain("cond", len(texts), (0,), texts, numbers)],
        schedule=tuple(float(STEPS - step) for step in range(STEPS)) + (0.0,),
    )


def an_evaluation(parts, index):
    generator = torch.Generator().manual_seed(index)
    norm = torch.rand(1, GRID, GRID, generator=generator) + 0.5
    return parts.record.Evaluation(
        index=index,
        sigma=torch.tensor([float(STEPS - index)]),
        guidance_scale=7.0,
        labels=torch.randint(0, 77, (1, GRID, GRID), generator=generator).to(torch.int16),
        foreground=norm > 1,
        classifier=norm,
        rescaled=norm,
        diffusion=norm,
        ratio=norm,
        preview=torch.randint(0, 256, (1, 3, SIDE, SIDE), generator=generator).byte(),
    )


def sample(parts, view, steps=STEPS, prompt="a prompt", sampler=SAMPLER):
    """A run of so many evaluations, shown to `view` as a sampler of the queued prompt does."""
    from comfy_execution.utils import CurrentNodeContext

    run = a_run(parts)
    with CurrentNodeContext(prompt, sampler):
        for index in range(steps):
            evaluation = an_evaluation(parts, index)
            run.add(evaluation)
            view.evaluated(run, evaluation)
        run.close()
        view.finished(run, "S-CFG active" if steps else "S-CFG inactive: cfg is 1")
    return run


def test_every_step_is_there_in_the_end_once(parts, server):
    sample(parts, parts.live.LiveView(NODE))
    frames = server.frames(STEPS)
    assert sorted(frame["index"] for frame in frames) == list(range(STEPS))
    assert {(event, client) for event, _, client in server.sent} == {(FRAME, CLIENT), (END, CLIENT)}
    places = {(frame["node"], frame["graph"], frame["prompt"]) for frame in frames + server.ends()}
    assert places == {(NODE, "a graph", "a prompt")}
    assert len({message["run"] for message in frames + server.ends()}) == 1
    assert {frame["step"]: frame["index"] for frame in frames} == {step: step for step in range(STEPS)}


def test_a_frame_says_who_owns_what_and_how_strongly_it_is_guided(parts, server):
    sample(parts, parts.live.LiveView(NODE))
    frame = next(each for each in server.frames(STEPS) if each["index"] == 3)
    evaluation = an_evaluation(parts, 3)
    numbers = np.frombuffer(base64.b64decode(frame["labels"]), "<u2").reshape(frame["grid"])
    texts = np.array([word["text"] for word in frame["words"]])[numbers]
    names = ["no word (start)", *a_run(parts).prompts[0].texts[1:-1], "no word (end)"]
    expected = np.array(names)[evaluation.labels[0].numpy()]
    assert (texts == expected).all()
    ratios = np.frombuffer(base64.b64decode(frame["ratios"]), "<u2").reshape(frame["grid"]) / 1000
    assert np.abs(ratios - evaluation.ratio[0].numpy()).max() < 1e-3
    assert frame["preview"].startswith("data:image/jpeg;base64,")


def test_the_throttle_leaves_out_what_comes_too_soon(parts, server):
    parts.pages.subscribe(CLIENT, 60.0)
    view, run = parts.live.LiveView(NODE), a_run(parts)
    for index in range(STEPS):
        view.evaluated(run, an_evaluation(parts, index))
    assert [frame["index"] for frame in server.frames(1)] == [0]


def test_a_slow_page_costs_frames_and_not_time(parts, server):
    server.slow.clear()
    view, run = parts.live.LiveView(NODE), a_run(parts)
    for index in range(STEPS):
        time.sleep(0.03)
        view.evaluated(run, an_evaluation(parts, index))
    server.slow.set()
    frames = server.frames(parts.live.QUEUE_SIZE + 1)
    assert 0 < len(frames) <= parts.live.QUEUE_SIZE + 1
    assert frames[-1]["index"] == STEPS - 1


@pytest.mark.parametrize("reason", ["no client", "gone", "never asked", "switched off", "no server"])
def test_nothing_is_made_for_nobody(parts, server, monkeypatch, reason):
    if reason == "no client":
        server.client_id = None
    if reason == "gone":
        server.sockets.clear()
    if reason == "never asked":
        server.client_id, server.sockets = "another", {"another": object()}
    if reason == "switched off":
        parts.pages.subscribe(CLIENT, None)
    if reason == "no server":
        monkeypatch.delitem(sys.modules, "server")
    monkeypatch.setattr(parts.live, "frame_of", lambda *_: pytest.fail("a frame was made"))
    monkeypatch.setattr(parts.live._WORKER, "add", lambda _: pytest.fail("the worker was called"))
    sample(parts, parts.live.LiveView(NODE))
    assert server._frames() == []
    assert len(server.ends()) == (reason == "switched off"), "a page is told how a run ended, and nobody else"


def test_a_run_after_an_interrupted_one_is_another_run(parts, server):
    view, interrupted = parts.live.LiveView(NODE), a_run(parts)
    view.evaluated(interrupted, an_evaluation(parts, 0))
    server.frames(1)
    sample(parts, view)
    frames = server.frames(STEPS + 1)
    assert len({frame["run"] for frame in frames}) == 2
    assert sorted(frame["index"] for frame in frames[1:]) == list(range(STEPS))


def test_frames_are_made_and_sent_on_another_thread(parts, server, monkeypatch):
    """The sampling thread only leaves an evaluation in a queue: it copies, packs and sends nothing."""
    made, make = set(), parts.live.frame_of

    def frame_of(*args):
        made.add(threading.get_ident())
        return make(*args)

    monkeypatch.setattr(parts.live, "frame_of", frame_of)
    sample(parts, parts.live.LiveView(NODE))
    assert len(server.frames(STEPS)) == STEPS
    assert made and server.threads
    assert threading.get_ident() not in made | server.threads


def test_a_page_is_told_how_a_run_ended(parts, server):
    view = parts.live.LiveView(NODE, " [a remark]")
    sample(parts, view)
    sample(parts, view, steps=0)
    told = [(end["active"], end["status"], end["remedy"]) for end in server.ends()]
    assert told == [
        (True, "S-CFG active [a remark]", ""),
        (False, "S-CFG inactive: cfg is 1 [a remark]", "Set at least one step."),
    ]


def answer(parts, server, nodes, known=()):
    """What the server says of the runs behind a prompt."""
    server.queue("asked", nodes)
    (found,) = [
        found for found in parts.routes.runs_of(parts.queue.find_prompt("asked"), known) if found["node"] == NODE
    ]
    return found


@pytest.fixture
def sampled(parts, server):
    """Two finished runs of one node, with seed 1 and then 2, and an inactive one with seed 3; the runs."""
    runs, view = [], parts.live.LiveView(NODE)
    for seed, steps in ((1, STEPS), (2, 4), (3, 0)):
        server.queue("a prompt", a_prompt(seed))
        runs.append(sample(parts, view, steps))
    return runs


@pytest.mark.parametrize(("seed", "frames", "active"), [(1, STEPS, True), (2, 4, True), (3, 0, False)])
def test_the_run_behind_a_cached_image_is_the_one_that_made_it(parts, server, sampled, seed, frames, active):
    found = answer(parts, server, a_prompt(seed))
    assert (found["prompt"], found["graph"]) == ("asked", "a graph")
    assert found["run"] == server.ends()[seed - 1]["run"]
    assert [frame["index"] for frame in found["frames"]] == list(range(frames))
    assert (found["active"], found["status"].partition(":")[0]) == (
        active,
        "S-CFG active" if active else "S-CFG inactive",
    )
    assert found["remedy"] == ("" if active else "Set at least one step.")


def test_the_sampler_may_have_another_number(parts, server, sampled):
    assert answer(parts, server, a_prompt(2, sampler="77"))["run"] == server.ends()[1]["run"]


@pytest.mark.parametrize(
    "nodes",
    [
        a_prompt(4),
        a_prompt(1) | {"1": {"class_type": "Loader", "inputs": {"name": "another model"}}},
        a_prompt(1) | {SAMPLER: {"class_type": "KSampler", "inputs": {"model": ["1", 0], "seed": 1}}},
    ],
    ids=["another seed", "another model", "without our node"],
)
def test_of_another_image_no_run_is_known(parts, server, sampled, nodes):
    assert answer(parts, server, nodes)["run"] is None


def test_two_equal_nodes_are_told_apart(parts, server, sampled):
    nodes = a_prompt(1, node="8") | {NODE: a_prompt()[NODE]}
    assert answer(parts, server, nodes)["run"] is None


def test_what_a_page_knows_is_not_sent_again(parts, server, sampled):
    known = [server.ends()[0]["run"]]
    assert answer(parts, server, a_prompt(1), known)["frames"] == []


def test_a_run_whose_record_is_gone_is_still_known_by_its_status(parts, server, sampled):
    gone = weakref.ref(sampled[1])
    sampled.clear()
    deadline = time.monotonic() + 60
    while gone() is not None and time.monotonic() < deadline:  # until its last frame is sent
        time.sleep(0.05)
        gc.collect()
    found = answer(parts, server, a_prompt(2))
    assert (found["status"], found["frames"]) == ("S-CFG active", [])


def test_a_queue_without_our_nodes_has_no_runs(parts, server, sampled):
    server.queue("asked", {"1": a_prompt()["1"]})
    assert parts.routes.runs_of(parts.queue.find_prompt("asked"), []) == []
