"""A run from its beginning to its end, good or bad: what it tells, and that nothing of it is left behind."""

import gc
import weakref

import pytest
import torch

from scfg_core import Note, Settings
from scfg_core.hosts.comfyui import guide, observe
from scfg_core.run.session import Collection

from . import host
from .expected import Prompt, check, scfg, watching
from .probe import Probe

CAT, BLURRY = host.tokens(1), host.tokens(2)
PROMPTS = host.conditioning(CAT), host.conditioning(BLURRY)
PICTURE = host.latent(24, 40)


def sample(model, **how):
    return host.ksample(model, *PROMPTS, PICTURE, **how)


def fail_at(step, error):
    def callback(now, *_):
        if now == step:
            raise error

    return callback


def state(model) -> str:
    """Everything that a run could leave on a model: options, wrappers, hooks and instance attributes."""
    modules = [(name, sorted(vars(part)), len(part._forward_hooks)) for name, part in model.model.named_modules()]
    return repr((model.model_options, model.wrappers, model.callbacks, modules))


def test_strength_0_is_plain_cfg_bit_for_bit_and_recorded(sd15):
    plain = sample(sd15)
    guided = scfg(sd15, Settings(strength=0))
    assert torch.equal(sample(guided.model), plain)
    assert guided.line.startswith("S-CFG observing: 4 layers, grids 6×10 + 3×5, 77 tokens, 1 prompt")
    assert all(torch.all(each.ratio == 1) for each in guided.run.evaluations)


@pytest.mark.parametrize(("start", "end", "active"), [(0.0, 0.5, [0, 1]), (0.5, 1.0, [2, 3]), (0.3, 0.7, [1, 2])])
def test_only_its_part_of_the_schedule_is_guided(sd15, start, end, active):
    settings = Settings(start=start, end=end)
    with Probe(sd15) as probe:
        guided = scfg(probe.patcher, settings)
        sample(guided.model, steps=4)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)], settings=settings, evaluations=active)
    assert [index for index, each in enumerate(guided.run.evaluations) if torch.any(each.ratio != 1)] == active
    for index in set(range(4)) - set(active):
        args = probe.evaluations[index].args
        plain = args["uncond_denoised"] + (args["cond_denoised"] - args["uncond_denoised"]) * args["cond_scale"]
        assert torch.equal(args["denoised"], plain)


def test_a_range_that_never_comes_leaves_the_picture_bit_for_bit(sd15):
    plain = sample(sd15)
    assert torch.equal(sample(scfg(sd15, Settings(start=0.97, end=0.98)).model), plain)


def test_maps_of_every_third_evaluation_serve_for_the_next_two(sd15):
    with Probe(sd15) as probe:
        collecting = watching(probe.patcher, Collection(every=3))
        guided = scfg(collecting.model)
        sample(guided.model, steps=5)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)], labels_from=lambda index: index // 3 * 3)
    assert [each.fresh for each in guided.run.evaluations] == [True, False, False, True, False]
    assert Note.REUSED.text not in guided.run.notes


def test_the_order_of_the_two_nodes_does_not_matter_and_the_last_of_a_kind_wins(sd15):
    every_second = Collection(every=2)
    watched = watching(sd15, Collection(every=9))
    first = guide(observe(watched.model, every_second)[0], Settings())
    second = observe(guide(guide(watched.model, Settings(strength=0.1))[0], Settings())[0], every_second)
    assert torch.equal(sample(first[0], steps=3), sample(second[0], steps=3))
    assert first[1] is second[1] is watched.trace
    assert len(watched.lines) == len(watched.trace.runs()) == 2


def test_listeners_hear_every_evaluation_and_the_end(sd15):
    guided = scfg(sd15)
    sample(guided.model, steps=3)
    assert (guided.heard, len(guided.lines)) == (3, 1)


def test_a_zeroed_negative_takes_the_whole_picture_as_its_benchmark_and_says_so_once(sd15):
    zero = torch.zeros(1, 77, host.CONTEXT)
    with Probe(sd15) as probe:
        guided = scfg(probe.patcher)
        host.ksample(guided.model, PROMPTS[0], host.conditioning(zero), PICTURE)
    check(probe, guided, [Prompt(CAT)], [Prompt(zero)])
    assert all(torch.all(each.foreground) for each in guided.run.evaluations)
    assert guided.line.count(Note.NO_FOREGROUND.text) == 1


@pytest.mark.parametrize("where", ["collect.backend.PyTorch.cross_maps", "collect.operators.Product.propagate"])
def test_running_out_of_memory_in_our_part_costs_the_guidance_and_not_the_picture(sd15, monkeypatch, where):
    def no_memory(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory (a test says so)")

    plain = sample(sd15, steps=3)
    monkeypatch.setattr(f"scfg_core.{where}", no_memory)
    guided = scfg(sd15)
    assert torch.equal(sample(guided.model, steps=3), plain)
    assert guided.run.notes == [Note.OUT_OF_MEMORY.text]


@pytest.mark.parametrize(
    "where", ["run.PromptLists", "levels.Predictions", "run.Fingerprint.of", "run.Session.ratio", "run.status_line"]
)
def test_an_error_of_our_own_costs_the_guidance_and_not_the_picture(sd15, monkeypatch, where):
    plain = sample(sd15, steps=3)
    monkeypatch.setattr(f"scfg_core.hosts.comfyui.{where}", lambda *_, **__: 1 / 0)
    guided = scfg(sd15)
    picture = sample(guided.model, steps=3)
    assert torch.isfinite(picture).all()
    if where in ("run.PromptLists", "levels.Predictions"):
        assert torch.equal(picture, plain)
        assert "internal S-CFG error" in guided.line


def test_running_out_of_memory_in_a_middle_step_finishes_with_plain_cfg(sd15, monkeypatch):
    from scfg_core.collect.operators import Product
    from scfg_core.run.session import Session

    real, begin, evaluations = Product.propagate, Session.begin, []

    def counted(*args):
        evaluations.append(args)
        return begin(*args)

    def later_no_memory(*args):
        if len(evaluations) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (a test says so)")
        return real(*args)

    monkeypatch.setattr(Session, "begin", counted)
    monkeypatch.setattr(Product, "propagate", later_no_memory)
    guided = scfg(sd15)
    assert torch.isfinite(sample(guided.model, steps=4)).all()
    assert len(guided.run.evaluations) == 1
    assert guided.line.count(Note.OUT_OF_MEMORY.text) == 1


def test_no_q_and_k_outlive_the_call_of_the_model(sd15, monkeypatch):
    """Small blocks wait for each other, but not longer than that."""
    from scfg_core.collect.collector import Collector
    from scfg_core.run.session import Session

    computed, waiting = [], []
    catch_up, end_call = Collector.catch_up, Session.end_call

    def counted(collector):
        computed.append(sum(map(len, collector._due.values())))
        catch_up(collector)

    def ended(session):
        end_call(session)
        waiting.append(len(session._collector._due))

    monkeypatch.setattr(Collector, "catch_up", counted)
    monkeypatch.setattr(Session, "end_call", ended)
    guided = scfg(sd15)
    sample(guided.model, steps=2)
    assert max(computed) > 1 and waiting == [0, 0]
    assert len(guided.run.evaluations) == 2


def test_the_hosts_own_lack_of_memory_is_not_ours_to_hide(sd15, monkeypatch):
    import comfy.ldm.modules.attention as attention

    def no_memory(*_, **__):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory (a test says so)")

    monkeypatch.setattr(attention.FeedForward, "forward", no_memory)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        sample(scfg(sd15).model)


@pytest.mark.parametrize("kind", ["error", "interrupt"])
def test_after_a_run_that_broke_off_the_next_is_as_after_none(sd15, kind):
    import comfy.model_management

    error = RuntimeError("a test") if kind == "error" else comfy.model_management.InterruptProcessingException()
    plain, clean = sample(sd15, steps=3), sample(scfg(sd15).model, steps=3)
    guided = scfg(sd15)
    before = state(guided.model)
    with pytest.raises(type(error)):
        sample(guided.model, steps=3, callback=fail_at(1, error))
    assert guided.trace.runs() == guided.lines == []
    assert state(guided.model) == before
    assert torch.equal(sample(sd15, steps=3), plain)
    assert torch.equal(sample(guided.model, steps=3), clean)


def test_bypass_leaves_nothing_on_the_model(sd15):
    before, plain = state(sd15), sample(sd15)
    sample(scfg(sd15).model)
    assert state(sd15) == before
    assert torch.equal(sample(sd15), plain)


def test_twenty_runs_keep_no_more_memory_than_the_trace_says(sd15):
    guided = scfg(sd15)
    counts = []
    for run in range(20):
        host.ksample(guided.model, *PROMPTS, host.latent(8, 8), seed=run, steps=1)
        if run in (5, 19):
            gc.collect()
            counts.append(sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects()))
    assert len(guided.trace.runs()) == 4
    assert counts[0] == counts[1]


def test_a_run_can_be_collected_and_holds_neither_the_model_nor_the_prompts(sd15):
    text = host.tokens(1)
    guided = scfg(sd15)
    host.ksample(guided.model, host.conditioning(text), PROMPTS[1], PICTURE)
    prompt, trace, run = weakref.ref(text), weakref.ref(guided.trace), weakref.ref(guided.run)
    kept = guided.run
    del text, guided
    gc.collect()
    assert prompt() is None and trace() is None and run() is kept
    del kept
    gc.collect()
    assert run() is None
