"""The live view on the server's side: to whom frames go, how many, and on which thread."""

import base64
import importlib
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

CLIENT, NODE = "a client", "12:5"
GRID, SIDE = 64, 256
STEPS = 12


class FakeServer:
    """A server whose only client keeps what it is sent; `slow` makes it take its time."""

    def __init__(self) -> None:
        self.client_id: str | None = CLIENT
        self.sockets = {CLIENT: object()}
        workflow = {"extra_pnginfo": {"workflow": {"id": "a graph"}}}
        self.prompt_queue = SimpleNamespace(currently_running={0: (0, "id", {}, workflow, [])})
        self.sent: list[tuple[str, dict, str]] = []
        self.threads: set[int] = set()
        self.slow = threading.Event()
        self.slow.set()

    def send_sync(self, event: str, data: dict, client: str) -> None:
        self.slow.wait(30)
        self.threads.add(threading.get_ident())
        self.sent.append((event, data, client))

    def frames(self, count: int) -> list[dict]:
        """What was sent, once it is so many frames."""
        deadline = time.monotonic() + 60
        while len(self.sent) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        return [data for _, data, _ in self.sent]


@pytest.fixture(scope="module")
def parts(pack):
    """Modules of the pack under their own names."""
    wanted = {"live": "nodes.live", "subscribers": "nodes.subscribers", "record": "scfg_core.run.record"}
    wanted |= {"prompt": "scfg_core.prompt"}
    found = {key: importlib.import_module(f"{pack.__name__}.{path}") for key, path in wanted.items()}
    return SimpleNamespace(**found)


@pytest.fixture
def server(parts, monkeypatch):
    made = FakeServer()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=made)))
    parts.subscribers.subscribe(CLIENT, 0.0)
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


def sample(parts, view):
    """A run of STEPS evaluations, shown to `view` as a sampler does."""
    run = a_run(parts)
    for index in range(STEPS):
        evaluation = an_evaluation(parts, index)
        run.add(evaluation)
        view.evaluated(run, evaluation)
    run.close()
    view.finished(run, "S-CFG active")


def test_every_step_is_there_in_the_end_once(parts, server):
    sample(parts, parts.live.LiveView(NODE))
    frames = server.frames(STEPS)
    assert sorted(frame["index"] for frame in frames) == list(range(STEPS))
    assert {(event, client) for event, _, client in server.sent} == {("scfg.step", CLIENT)}
    assert {(frame["node"], frame["graph"]) for frame in frames} == {(NODE, "a graph")}
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
    parts.subscribers.subscribe(CLIENT, 60.0)
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
        parts.subscribers.subscribe(CLIENT, None)
    if reason == "no server":
        monkeypatch.delitem(sys.modules, "server")
    monkeypatch.setattr(parts.live, "frame_of", lambda *_: pytest.fail("a frame was made"))
    monkeypatch.setattr(parts.live._WORKER, "add", lambda _: pytest.fail("the worker was called"))
    sample(parts, parts.live.LiveView(NODE))
    assert server.sent == []


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
