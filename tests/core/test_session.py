"""A run, evaluation by evaluation, and what it leaves behind."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

import scfg_core.run.record
from scfg_core import Grid, Note, Prompt, Segmentation, Settings, SettingsError
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.prompt import number_labels
from scfg_core.run.evaluation import Evaluation
from scfg_core.run.fingerprint import Fingerprint
from scfg_core.run.noise import NoiseLevel
from scfg_core.run.record import KEPT_EVALUATIONS, MOST_WAITING, Run
from scfg_core.run.session import Collection, Placement, Predictions, Session
from scfg_core.run.trace import Trace

GRID, TOKENS, HEADS, WIDTH = Grid(4, 5), 6, 2, 8
PROMPTS = {"text": Prompt.plain("cond", TOKENS), "empty": Prompt.plain("uncond", TOKENS)}
ROWS = [Rows("empty", slice(0, 1)), Rows("text", slice(1, 2))]


def qk(seed, keys):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, HEADS, count, WIDTH, generator=generator) for count in (GRID.area, keys))


def self_call(q, k, rows=ROWS, layer="layer"):
    return LayerCall(layer, q, k, rows, GRID, Layout.self_attention(GRID))


def cross_call(q, k, rows=ROWS, layer="layer"):
    return LayerCall(layer, q, k, rows, GRID, Layout.cross_attention(k.shape[2]))


def predictions(delta, epsilon_unit=1.0, active=True):
    """Two predictions of x0 that differ by delta, where ε(x, ∅) is 1 everywhere."""
    noise = NoiseLevel(1.0, 1 / epsilon_unit, "sample")
    x, uncond = torch.ones_like(delta) / epsilon_unit, torch.zeros_like(delta)
    return Predictions(x, delta, uncond, noise, 3.0, 5.0, active)


def evaluate(session, seed=0, feed=True, acts=True, size=(8, 10), epsilon_unit=1.0, **more):
    session.begin(PROMPTS)
    if feed:
        session.observe(self_call(*qk(seed, GRID.area)))
        session.observe(cross_call(*qk(seed + 1, TOKENS)))
    delta = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed + 2))
    places = [Placement("text")], [Placement("empty")]
    return session.ratio(predictions(delta, epsilon_unit, acts), *places, **more)


def new_session(settings=None, collection=None, **more):
    run = Run(schedule=(10.0, 3.0, 1.0, 0.0))
    return Session(settings or Settings(), collection or Collection(), run, **more), run


def test_an_evaluation_is_guided_and_recorded():
    seen = []
    session, run = new_session(recorded=seen.append)
    ratio = evaluate(session, epsilon_unit=0.5)
    run.close()
    (record,) = run.evaluations
    assert ratio.shape == (1, 1, 8, 10)
    assert seen[0].index == record.index == 0
    assert record.grid == GRID and record.fresh and record.labels.dtype == torch.int16
    assert run.step_of(record) == 1
    assert torch.allclose(record.diffusion, torch.full((1, 4, 5), 2.0))
    assert run.mean_guidance() == pytest.approx(5.0 * float(record.ratio.mean()))
    assert run.notes == []


def test_steps_of_a_schedule_that_rises_or_ends_in_noise():
    def steps(schedule, sigmas):
        levels = [Evaluation(0, sigma, 5.0, *[torch.zeros(1, 1, 1)] * 6) for sigma in sigmas]
        return [Run(schedule=schedule).step_of(each) for each in levels]

    assert steps((10.0, 3.0, 1.0, 0.0), (10.0, 3.0, 1.0, 0.5)) == [0, 1, 2, 2]
    assert steps((10.0, 3.0, 1.0), (10.0, 3.0, 1.0)) == [0, 1, 1]
    assert steps((0.5, 1.0, 3.0, 10.0), (0.5, 1.0, 3.0, 10.0)) == [0, 1, 2, 2]


def test_norms_are_in_epsilon_units():
    whole, half = new_session(), new_session()
    evaluate(whole[0], epsilon_unit=1.0)
    evaluate(half[0], epsilon_unit=torch.full((1, 1, 1), 0.5))
    assert torch.allclose(whole[1].evaluations[0].classifier / 2, half[1].evaluations[0].classifier)


@pytest.mark.parametrize("how", [{"acts": False}, {"settings": Settings(strength=0.0)}])
def test_watching_records_and_leaves_the_guidance_alone(how):
    session, run = new_session(how.pop("settings", None))
    assert evaluate(session, **how) is None
    assert torch.equal(run.evaluations[0].ratio, torch.ones(1, 4, 5))


def test_an_evaluation_without_maps_uses_the_last_labels_and_fresh_norms():
    session, run = new_session()
    first = evaluate(session, seed=0)
    second = evaluate(session, seed=7, feed=False)
    run.close()
    assert second is not None and not torch.equal(first, second)
    assert torch.equal(run.evaluations[0].labels, run.evaluations[1].labels)
    assert not run.evaluations[1].fresh and run.notes == [Note.REUSED.text]


def test_labels_of_another_picture_size_are_not_used():
    session, run = new_session()
    evaluate(session)
    assert evaluate(session, feed=False, size=(16, 20)) is None
    assert run.notes == [Note.NO_MAPS.text]


def test_a_run_that_never_had_maps_is_plain_cfg_and_says_so_once():
    session, run = new_session()
    assert [evaluate(session, feed=False) for _ in range(3)] == [None] * 3
    assert run.notes == [Note.NO_MAPS.text] and run.evaluations == []


def test_every_kth_evaluation_collects_and_nothing_is_said():
    session, run = new_session(collection=Collection(every=3))
    for seed in range(7):
        assert evaluate(session, seed=seed) is not None
    assert [each.fresh for each in run.evaluations] == [True, False, False, True, False, False, True]
    assert run.notes == []


def test_labels_are_reused_while_one_of_several_active_prompts_has_no_maps():
    """A cache that answers for one prompt only does not give its patches to the other."""
    session, run = new_session()
    first, second = number_labels(Prompt.plain("cond", TOKENS) for _ in "AB")
    prompts = {"A": first, "B": second, "empty": PROMPTS["empty"]}
    places = [Placement("A"), Placement("B")], [Placement("empty")]
    for seen in ("AB", "A"):
        session.begin(prompts)
        for name in (*seen, "empty"):
            q, k = qk(len(seen), GRID.area)
            session.observe(self_call(q[:1], k[:1], [Rows(name, slice(0, 1))]))
            q, k = qk(7, TOKENS)
            session.observe(cross_call(q[:1], k[:1], [Rows(name, slice(0, 1))]))
        session.ratio(predictions(torch.randn(1, 4, 8, 10)), *places)
    both, one = run.evaluations
    assert both.fresh and not one.fresh and torch.equal(both.labels, one.labels)
    assert run.notes == [Note.REUSED.text]


@pytest.mark.parametrize("settings", [Settings(), Settings(strength=0.0)], ids=["acting", "observing"])
def test_a_word_that_is_not_in_the_prompt_is_noted_whether_s_cfg_acts_or_not(settings):
    session, run = new_session(settings, word_weights={"zebra": 2.0})
    evaluate(session)
    assert run.notes == [Note.UNKNOWN_WORD.text.format(word="zebra")]


def test_labels_may_be_numpy_integers():
    session, run = new_session(word_weights={np.int64(3): 2.0})
    assert evaluate(session) is not None and run.notes == []


def test_out_of_memory_in_our_part_gives_plain_cfg_for_the_rest(monkeypatch):
    session, run = new_session()

    def explode(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("scfg_core.run.session.ratio_of_norm", explode)
    assert evaluate(session) is None
    monkeypatch.undo()
    assert evaluate(session, seed=1) is None and not session.begin(PROMPTS)
    assert run.notes == [Note.OUT_OF_MEMORY.text]


def test_an_error_of_our_own_gives_plain_cfg_and_is_reported(monkeypatch, caplog):
    session, run = new_session()
    monkeypatch.setattr("scfg_core.run.session.segment_entries", lambda *_: 1 / 0)
    assert evaluate(session) is None
    assert "ZeroDivisionError" in run.notes[0] and "ZeroDivisionError" in caplog.text


def test_a_second_thread_that_fails_after_the_first_gave_up_says_nothing_more(caplog):
    session, run = new_session()
    session.begin(PROMPTS)
    session.give_up(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    session.give_up(ValueError("rows of an evaluation that is over"))
    assert run.notes == [Note.OUT_OF_MEMORY.text] and caplog.text == ""


@pytest.mark.parametrize("where", ["preview", "run.evaluation.patch_mean", "run.session.Observation"])
def test_what_cannot_be_recorded_is_guided_all_the_same(monkeypatch, where):
    wanted, how = evaluate(new_session()[0]), {}
    if where == "preview":
        how = {"preview": lambda guided: 1 / 0}
    else:
        monkeypatch.setattr(f"scfg_core.{where}", lambda *_, **__: 1 / 0)
    session, run = new_session()
    assert torch.equal(evaluate(session, **how), wanted)
    assert run.evaluations == [] and run.notes == [Note.UNRECORDED.text]


def test_one_evaluation_that_cannot_be_recorded_does_not_cost_the_others_their_records():
    session, run = new_session()
    for seed in range(3):
        evaluate(session, seed=seed, preview=(lambda guided: 1 / 0) if seed == 1 else None)
    run.close()
    assert [kept.index for kept in run.evaluations] == [0, 2] and run.notes == [Note.UNRECORDED.text]


def test_nothing_for_views_is_computed_before_somebody_looks(monkeypatch):
    computed = []
    real = scfg_core.run.evaluation.patch_mean
    monkeypatch.setattr("scfg_core.run.evaluation.patch_mean", lambda *how: computed.append(None) or real(*how))
    session, run = new_session()

    def preview(guided):
        computed.append(None)
        return torch.zeros(len(guided), 3, 8, 10, dtype=torch.uint8)

    for seed in range(MOST_WAITING + 3):
        evaluate(session, seed=seed, preview=preview)
        assert len(computed) == (0 if seed < MOST_WAITING - 1 else 2)
    assert len(run.evaluations) == MOST_WAITING + 3 and len(computed) == 4, "maps and images of all at once, twice"


@pytest.mark.parametrize("alike", [True, False])
def test_what_is_recorded_together_is_what_is_recorded_one_by_one(alike):
    """Of one size and one kind of noise level, or of several."""
    sizes = [(8, 10)] * 5 if alike else [(8, 10), (8, 10), (16, 20), (8, 10), (16, 20)]
    units = [torch.full((1, 1, 1, 1), 0.5 + seed) if alike or seed % 2 else 0.5 + seed for seed in range(5)]

    def preview(guided):
        return (40 * guided[:, :3]).clamp(0, 255).byte()

    (together, run), (single, seen) = new_session(), new_session()
    for seed in range(5):
        how = {"size": sizes[seed], "epsilon_unit": units[seed], "preview": preview}
        evaluate(together, seed, **how)
        evaluate(single, seed, **how)
        assert len(seen.evaluations) == seed + 1  # looked at after every one
    run.close()
    seen.close()
    for one, other in zip(run.evaluations, seen.evaluations, strict=True):
        found, wanted = vars(one), vars(other)
        assert all(
            torch.equal(value, wanted[name]) if isinstance(value, torch.Tensor) else value == wanted[name]
            for name, value in found.items()
        )
        assert isinstance(one.sigma, float) and one.preview is not None


def test_predictions_that_are_not_finite_are_said_once_at_the_end():
    session, run = new_session()
    session.begin(PROMPTS)
    session.observe(self_call(*qk(0, GRID.area)))
    session.observe(cross_call(*qk(1, TOKENS)))
    delta = torch.randn(1, 4, 8, 10)
    delta[..., 0, 0] = torch.inf
    ratio = session.ratio(predictions(delta), [Placement("text")], [Placement("empty")])
    assert torch.isfinite(ratio).all() and ratio[0, 0, 0, 0] == 1
    run.close()
    assert [note for note in run.notes if "not finite" in note]


def test_no_q_and_k_are_left_where_the_cross_attention_does_not_come():
    session, _ = new_session()
    session.begin(PROMPTS)
    before = weakref.WeakSet()
    for layer in "ab":
        session.observe(self_call(*qk(0, GRID.area), [Rows("text", slice(0, 2))], layer))
    before.update(call.q for call, _ in session._collector._pending.values())
    assert len(before) == 2
    session.skip_layer("a", ["text"])
    gc.collect()
    assert len(before) == 1
    session.end_batch()
    gc.collect()
    assert len(before) == 0


def test_regions_of_ones_own_need_no_scores():
    own = Segmentation(torch.arange(2).repeat(1, 4, 10)[..., :5], torch.ones(1, 4, 5, dtype=torch.bool))
    session, run = new_session(collection=Collection(soft_maps=True), resegment=lambda found: own)
    assert evaluate(session) is not None
    assert torch.equal(run.evaluations[0].labels, own.labels.to(torch.int16))
    assert run.evaluations[0].soft is None and run.notes == []


def test_prompts_that_take_turns_keep_their_labels():
    """A of 6 tokens is active first, then B of 4: B's tokens are always those after A's."""
    session, run = new_session(collection=Collection(soft_maps=True))
    alone, alone_run = new_session(collection=Collection(soft_maps=True))
    tokens = {"A": TOKENS, "B": 4}
    first, second = number_labels(Prompt.plain("cond", length) for length in tokens.values())
    prompts = {"A": first, "B": second, "empty": PROMPTS["empty"]}
    delta = torch.randn(1, 4, 8, 10)
    for seed, active in enumerate("AB"):
        for one in (session, alone):
            one.begin(prompts if one is session else prompts | {"B": replace(second, first_label=0)})
            rows = [Rows("empty", slice(0, 1)), Rows(active, slice(1, 2))]
            one.observe(self_call(*qk(seed, GRID.area), rows))
            for place, part in enumerate(rows):
                q, k = qk(seed + 5, tokens.get(part.prompt, TOKENS))
                one.observe(
                    cross_call(q[place : place + 1], k[place : place + 1], [Rows(part.prompt, slice(0, 1))])
                )
        places = [Placement(name, active=name == active) for name in "AB"]
        with_the_other = session.ratio(predictions(delta), places, [Placement("empty")])
        by_itself = alone.ratio(predictions(delta), [Placement(active)], [Placement("empty")])
        assert torch.equal(with_the_other, by_itself)
    first, second = (each.labels for each in run.evaluations)
    assert torch.equal(first, alone_run.evaluations[0].labels)
    assert torch.equal(second, alone_run.evaluations[1].labels + TOKENS)
    assert run.token_count == 2 and run.mean_scores().values.shape == (1, GRID.area, 10)
    assert {labels: sums.shape[2] for labels, sums in run.token_sums.items()} == {
        tuple(range(6)): 6,
        tuple(range(6, 10)): 4,
    }
    assert [each.soft.shape[2] for each in run.evaluations] == [6, 4]
    assert run.evaluations[1].soft_maps().values[..., :TOKENS].abs().max() == 0
    assert torch.equal(run.evaluations[1].soft_maps().values[..., TOKENS:], run.evaluations[1].soft)
    assert torch.equal(run.evaluations[0].soft_maps().values, run.evaluations[0].soft)


def test_soft_maps_are_kept_only_when_asked_for():
    for soft in (False, True):
        session, run = new_session(collection=Collection(soft_maps=soft))
        evaluate(session)
        assert (run.evaluations[0].soft is not None) == soft
    assert run.evaluations[0].soft.shape == (1, GRID.area, TOKENS)
    assert run.evaluations[0].soft.dtype == torch.float16


def test_the_running_sum_is_the_mean_of_the_scores():
    session, run = new_session(collection=Collection(soft_maps=True))
    for seed in (0, 5, 9):
        evaluate(session, seed=seed)
    expected = torch.stack([each.soft.float() for each in run.evaluations]).mean(dim=0)
    assert torch.allclose(run.mean_scores().values, expected, rtol=2e-3)


def test_what_is_not_finite_is_said_once_at_the_end():
    session, run = new_session()
    for _ in range(2):
        session.begin(PROMPTS)
        q, k = qk(0, GRID.area)
        session.observe(self_call(q * float("nan"), k))
        session.observe(cross_call(*qk(1, TOKENS)))
        ratio = session.ratio(predictions(torch.randn(1, 4, 8, 10)), [Placement("text")], [Placement("empty")])
        assert torch.equal(ratio, torch.ones(1, 1, 8, 10))
    assert run.notes == []
    run.close()
    assert len([note for note in run.notes if "not finite" in note]) == 1


@pytest.mark.parametrize("bad", [{"layers": "some"}, {"budget_mib": 0.0}, {"every": 0}, {"every": 101}])
def test_a_bad_collection_is_an_error(bad):
    with pytest.raises(SettingsError, match="expected .*, got "):
        Collection(**bad)


def blank(index):
    cells = torch.zeros(1, 1, 1)
    return Evaluation(index, 1.0, 5.0, cells.short(), cells.bool(), cells, cells, cells, cells)


def test_a_long_run_is_thinned_evenly():
    run = Run()
    for index in range(3 * KEPT_EVALUATIONS):
        run.add(blank(index))
    kept = [each.index for each in run.evaluations]
    assert len(kept) <= KEPT_EVALUATIONS and kept == list(range(0, 3 * KEPT_EVALUATIONS, 4))


def test_a_trace_keeps_the_last_runs_and_finds_the_newest():
    trace = Trace(kept=2)
    for number in range(3):
        trace.add(Run(token_count=number))
    assert [run.token_count for run in trace.runs()] == [1, 2]
    assert trace.find(lambda run: run.token_count < 9).token_count == 2
    assert trace.find(lambda run: run.token_count == 0) is None


def test_a_dropped_run_is_collected():
    trace = Trace(kept=1)
    run = Run()
    gone = weakref.ref(run)
    trace.add(run)
    del run
    trace.add(Run())
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_fingerprint_knows_a_latent_that_is_not_finite(value):
    latent = torch.randn(1, 4, 8, 8)
    latent[..., ::2] = value
    assert Fingerprint.of(latent).matches(Fingerprint.of(latent.clone()))
    assert not Fingerprint.of(torch.randn(1, 4, 8, 8)).matches(Fingerprint.of(latent))


def test_a_fingerprint_of_a_latent_of_more_than_16_million_numbers():
    """Beyond 2²⁴ single precision does not count every whole number: a video's latent."""
    latent = torch.zeros(1, 16, 33, 136, 240, dtype=torch.uint8)
    latent[..., -1] = 7
    assert Fingerprint.of(latent).values[-1] == 7


def test_a_fingerprint_survives_half_precision_and_tells_seeds_apart():
    latent = torch.randn(2, 4, 16, 12)
    mine = Fingerprint.of(latent)
    assert mine.matches(Fingerprint.of(latent.half())) and mine.matches(Fingerprint.of(latent.bfloat16()))
    assert not mine.matches(Fingerprint.of(torch.randn(2, 4, 16, 12)))
    assert not mine.matches(Fingerprint.of(latent[:1]))
    assert not mine.matches(Fingerprint.of(latent.transpose(2, 3)))
