"""Training: orthogonal steps, spread noise levels, fair attention, START's key, and runs that are resumed."""

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from demo.joint.model import load_transformer, to_latents
from demo.model import build_model
from demo.training.__main__ import main, parse_arguments
from demo.training.attention import fuse, propagate, unfair_shares
from demo.training.first import First
from demo.training.flow import Flow
from demo.training.muon import orthogonal
from demo.training.second import Second
from demo.training.settings import FirstTraining, FlowTraining, Schedule, SecondTraining, StartTraining
from demo.training.stage import Feed, rate, sample_times
from demo.training.start import Start, above_words, open_constant, set_start_keys, teach_foreground
from demo.wavelet import decode
from demo.words import COLOURS, PAD, VOCABULARY
from demo.world import spell
from scfg_core import Grid, LayerMaps, Settings, segment

FIRST = FirstTraining(batch=2, warmup=1, steps=10)
START = StartTraining(batch=2, warmup=1, steps=10)
FLOW = FlowTraining(batch=3, warmup=1, steps=10, depth=2)
SECOND = SecondTraining(batch=3, empty_rows=1, warmup=1, steps=10)


def model(seed=0):
    torch.manual_seed(seed)
    return build_model()


def stages(name):
    """Two equal stages at their beginning."""
    makers = {
        "first": lambda: First(FIRST, "cpu"),
        "start": lambda: Start(model(), START, "cpu"),
        "second": lambda: Second(model(), model(1), SECOND, "cpu"),
        "mmdit": lambda: Flow("mmdit", FLOW, "cpu"),
        "cross": lambda: Flow("cross", FLOW, "cpu"),
    }
    return makers[name](), makers[name]()


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 6, 20), (1, 20, 6)])
def test_orthogonal_brings_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices, rounds=8))
    assert values.min() > 0.5 and values.max() < 1.4


def test_times_are_in_range_and_spread():
    t = sample_times(4000, 1000, Schedule(), torch.Generator().manual_seed(0))
    assert t.min() >= 0 and t.max() < 1000
    assert (t < 100).float().mean() > 0.02 and 500 < t.float().mean() < 600


def test_the_rate_rises_stays_and_falls():
    s = Schedule(steps=100, warmup=10, cooldown=0.5)
    assert rate(0, 0.0, s) == 0.1 and rate(20, 0.2, s) == 1 and rate(75, 0.75, s) == 0.5
    assert rate(99, 1.0, s) == s.floor


def test_batches_are_the_same_whenever_asked_and_never_held_out():
    feed = Feed(batch=4, seed=1, device="cpu")
    later = Feed(batch=4, seed=1, device="cpu")(33)
    feed(0)
    assert torch.equal(feed(33).latents, later.latents) and torch.equal(feed(33).ids, later.ids)
    assert not torch.equal(feed(34).latents, later.latents)
    assert later.things.shape == (4, 256) and 0 < later.things.mean() < 0.5


def test_shares_are_unfair_only_outside_their_bounds():
    is_word = torch.tensor([[False, True, True, False]])
    fair = torch.tensor([0.4, 0.25, 0.25, 0.1]).expand(1, 2, 5, 4)
    assert unfair_shares([fair], is_word, 0.3, 0.15) == 0
    start_alone = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(1, 2, 5, 4)
    assert torch.isclose(unfair_shares([start_alone], is_word, 0.3, 0.15), torch.tensor(2 * 0.3**2))


def test_rows_without_words_do_not_count_as_unfair():
    is_word = torch.tensor([[False, True, True, False], [False] * 4])
    rows = torch.tensor([[0.4, 0.25, 0.25, 0.1], [1.0, 0.0, 0.0, 0.0]])
    assert unfair_shares([rows[:, None, None].expand(2, 2, 5, 4)], is_word, 0.3, 0.15) == 0


def test_training_sees_the_maps_that_scfg_reads():
    generator = torch.Generator().manual_seed(0)
    layers = []
    for side in (16, 8):
        s = torch.rand(2, side**2, side**2, generator=generator).square()
        c = torch.rand(2, side**2, 5, generator=generator).softmax(-1)
        layers.append((s / s.sum(-1, keepdim=True), c, Grid(side, side)))
    found = fuse([propagate(s, c) for s, c, _ in layers])
    both = [LayerMaps(s, c, grid) for s, c, grid in layers]
    expected = segment(both, both, Settings.preset("default"))
    assert torch.equal(found.argmax(-1), expected.labels.flatten(1))
    assert torch.equal(found[..., 0] < 0, expected.foreground.flatten(1))


def test_opening_the_constant_changes_no_key_or_value_of_any_word():
    demo, opened = model(), model()
    torch.nn.init.normal_(demo.text_encoder.norm.bias)
    opened.text_encoder.load_state_dict(demo.text_encoder.state_dict())
    reader = open_constant(opened)
    ids = demo.tokenizer(["a red boat on water", ""])
    before, after = demo.text_encoder(ids), opened.text_encoder(ids)
    words = ids > PAD
    assert torch.allclose((after[..., 1:] @ reader)[words], torch.ones(int(words.sum())), atol=1e-4)
    latents, t = torch.randn(2, 12, 32, 32), torch.tensor([500, 20])
    with torch.no_grad():
        expected = demo.unet(latents, t, encoder_hidden_states=before).sample
        found = opened.unet(latents, t, encoder_hidden_states=after).sample
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_new_key_of_start_leaves_those_of_the_words():
    demo = model()
    reader = open_constant(demo)
    ids = demo.tokenizer(["a red boat on water"])
    context = demo.text_encoder(ids)
    attentions = [module for name, module in demo.unet.named_modules() if name.endswith("attn2")]
    before = [attention.to_k(context) for attention in attentions]
    new = torch.nn.ParameterList([torch.randn(attention.to_k.out_features) for attention in attentions])
    set_start_keys(demo, new, reader)
    for attention, key, was in zip(attentions, new, before, strict=True):
        now = attention.to_k(context)
        assert torch.allclose(now[:, 1:], was[:, 1:], atol=1e-3)
        assert torch.allclose(now[:, 0], key * demo.text_encoder.length, atol=1e-3)


def test_start_is_taught_to_be_low_on_things_alone():
    things = torch.zeros(1, 256)
    things[:, :40] = 1
    right = torch.full((1, 256, 3), 0.1)
    right[:, :40] = -0.4
    taught = torch.tensor([True])
    assert teach_foreground(right, things, taught, 0.05) < 0.3 < teach_foreground(-right, things, taught, 0.05)
    assert teach_foreground(-right, things, ~taught, 0.05) == 0


def test_words_learn_nothing_from_start_being_above_them():
    maps = torch.zeros(1, 4, 3, requires_grad=True)
    above_words(maps, torch.tensor([[0, 5, 1]]), 0.1).backward()
    assert (maps.grad[..., 0] > 0).all() and (maps.grad[..., 1:] == 0).all()


def test_captions_err_at_their_odds_and_within_their_kind():
    stage = Second(
        model(), model(), replace(SECOND, wrong_colours=1.0, wrong_nouns=0.0, wrong_backdrops=0.0), "cpu"
    )
    ids = stage.model.tokenizer(["a red boat on water at night"] * 200)
    wrong = stage.with_errors(ids, torch.Generator().manual_seed(0))
    colours = {spell(row).split()[1] for row in wrong}
    assert colours == set(COLOURS)
    others = [place for place in range(ids.shape[1]) if VOCABULARY[ids[0, place]] != "red"]
    assert torch.equal(wrong[:, others], ids[:, others])


@pytest.mark.parametrize("name", ["first", "start", "second", "mmdit", "cross"])
def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path, name):
    straight, resumed = stages(name)
    straight.advance()
    straight.save(tmp_path / "state.pt")
    straight.advance()
    resumed.resume(tmp_path / "state.pt")
    resumed.advance()
    begun = [copy.deepcopy(parameter) for parameter in stages(name)[0].trained.parameters()]
    pairs = list(zip(straight.trained.parameters(), resumed.trained.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for (a, _), b in zip(pairs, begun, strict=True))


def test_the_first_model_is_not_trained_again():
    stage = Second(model(), model(1), SECOND, "cpu")
    before = copy.deepcopy(stage.first.unet.state_dict())
    stage.advance()
    assert all(torch.equal(value, before[name]) for name, value in stage.first.unet.state_dict().items())


@pytest.mark.parametrize("architecture", ["mmdit", "cross"])
def test_a_transformer_learns_in_a_few_steps(architecture):
    stage = Flow(architecture, replace(FLOW, batch=8, steps=1000), "cpu")
    errors = []
    for _ in range(16):
        stage.advance()
        errors.append(float(error_of(stage)))
    assert errors[-1] < 0.85 * errors[0]


def error_of(stage):
    """Mean squared error of the velocity at one noise level, of scenes that training has not come to."""
    batch = stage.feed(500)
    x0 = to_latents(decode(batch.latents))
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((len(x0),), 599)
    with torch.no_grad():
        return (stage.predict(0.4 * x0 + 0.6 * noise, t, batch.ids) - (noise - x0)).square().mean()


def test_flow_matching_runs_from_the_image_to_noise():
    stage = Flow("mmdit", FLOW, "cpu")
    x0, noise = torch.zeros(3, 16, 2, 2), torch.ones(3, 16, 2, 2)
    noised = stage.noised(x0, torch.tensor([0, 499, 999]), noise)
    assert torch.allclose(noised[:, 0, 0, 0], torch.tensor([0.001, 0.5, 1.0]))


def test_a_transformer_leaves_the_text_encoder_as_it_is():
    stage = Flow("mmdit", FLOW, "cpu")
    before = copy.deepcopy(stage.model.text_encoder.state_dict())
    stage.advance()
    assert all(torch.equal(value, before[name]) for name, value in stage.model.text_encoder.state_dict().items())


def test_the_clock_ends_a_stage(tmp_path):
    stage = First(replace(FIRST, seconds=1e-3, steps=1000), "cpu")
    stage.run(tmp_path / "state.pt")
    assert stage.step == 1 and (tmp_path / "state.pt").exists()


def test_the_command_trains_a_stage_and_exports_a_model(tmp_path):
    from demo.model import load_model, save_model

    save_model(model(), tmp_path / "first.safetensors")
    files = ["--model", str(tmp_path / "first.safetensors"), "--out", str(tmp_path / "state.pt")]
    main(["start", *files, "--batch", "2", "--steps", "1", "--export", str(tmp_path / "second.safetensors")])
    first, second = (load_model(tmp_path / f"{name}.safetensors") for name in ("first", "second"))
    assert first.config == second.config
    assert not torch.equal(first.text_encoder.norm.bias, second.text_encoder.norm.bias)


def test_the_command_trains_a_transformer_and_exports_it(tmp_path):
    files = ["--out", str(tmp_path / "state.pt"), "--export", str(tmp_path / "mmdit.safetensors")]
    main(["mmdit", *files, "--depth", "1", "--batch", "2", "--steps", "2"])
    loaded = load_transformer(tmp_path / "mmdit.safetensors")
    assert loaded.config["architecture"] == "mmdit" and len(loaded.transformer.joint_blocks) == 1
    assert loaded.transformer.final_layer.linear.weight.abs().max() > 0


def test_a_transformer_never_takes_the_place_of_the_bundled_weights():
    assert parse_arguments(["cross", "--export"]).export == Path("out/training/cross.safetensors")
