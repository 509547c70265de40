"""Masks that follow words, against the float64 oracle and against the host with the same masks given by hand."""

import numpy as np
import pytest
import torch

from scfg_core import Note, Settings, SettingsError
from scfg_core.hosts.comfyui import follow_words
from scfg_core.run.follow import FollowWords

from . import host
from .expected import Prompt, host_weight, scfg, watching
from .following import OWNERS, WORDS, Reader, Replay, base, expected_mask, following
from .probe import Probe
from .test_guiders import basic, dual_cfg, perp_neg
from .test_models import control_net, lora

A, B, C, EMPTY = (host.tokens(seed) for seed in (1, 2, 3, 4))
H, W = 24, 40
TOP = (16, 40, 0, 0)
PICTURE, PAIR = host.latent(H, W), host.latent(H, W, 2)
NEGATIVE = host.conditioning(EMPTY)
WANTED = {WORDS.index(word) for word in OWNERS.split(", ")}


def followed_run(model, positive, negative=NEGATIVE, image=PICTURE, make=watching, **how):
    """A run, what the host read in it, and what the U-Net did."""
    reader = Reader()
    with Probe(model) as probe:
        run = make(probe.patcher)
        output = host.ksample(reader.on(run.model), positive, negative, image, **{"steps": 3, **how})
    return reader, probe, run, output


def check_masks(reader, probe, prompts, *, wanted=WANTED, entry=1, name="positive", first=1, **how):
    """From the second evaluation on, the mask is the region of the evaluation before it."""
    seen = reader.seen(entry, name)
    assert len(seen) == len(probe.evaluations) > 2
    for index in range(first, len(seen)):
        mask, tied = expected_mask(probe, index - 1, prompts, wanted, **how)
        assert 0.05 < mask.mean() < 0.95, "nothing to see: the words own all or nothing"
        assert tied.mean() < 0.05, "too many ties for a test"
        assert np.array_equal(seen[index].numpy()[~tied], mask[~tied])
    return seen


def test_the_mask_follows_the_words_and_the_host_acts_by_it(sd15):
    positive = base(A) + following(B)
    reader, probe, run, output = followed_run(sd15, positive, image=PAIR)
    seen = check_masks(reader, probe, [Prompt(A)])
    assert torch.all(seen[0] == 0), "nowhere before the first labels"
    assert not torch.equal(seen[1], seen[2]), "nothing to see: the region does not move"
    assert not torch.equal(seen[1][0], seen[1][1]), "nothing to see: both images have one region"
    replay = Replay(seen)
    plain = base(A) + host.conditioning(B, mask=torch.ones(1, H, W))
    assert torch.equal(output, host.ksample(replay.on(sd15), plain, NEGATIVE, PAIR, steps=3))
    assert f"follows {OWNERS} on " in run.line


def test_guided_images_follow_too(sd15):
    reader, probe, run, _ = followed_run(sd15, base(A) + following(B), make=scfg)
    check_masks(reader, probe, [Prompt(A)])
    assert "S-CFG active" in run.line
    assert "2 prompts" in run.line


def test_a_frame_of_the_live_view_has_the_mask_that_is_followed(sd15, pack):
    import base64
    import importlib

    frames = importlib.import_module(f"{pack.__name__}.nodes.frames")
    reader, _, run, _ = followed_run(sd15, base(A) + following(B))
    (followed,) = frames.frame_of(run.run, run.run.evaluations[2])["followed"]
    values = np.frombuffer(base64.b64decode(followed["mask"]), "<u2").reshape(6, 10) / 1000
    assert np.array_equal(values, reader.seen()[2][0].numpy()[::4, ::4])
    assert followed["words"] == OWNERS[: frames.MAX_WORD_LENGTH]
    assert abs(followed["share"] - values.mean()) < 1e-6


def test_following_in_sdxl(sdxl):
    positive = base(A) + following(B)
    whole = Settings(strength=0, min_region=0.0)
    reader, probe, _, _ = followed_run(
        sdxl, positive, image=host.latent(32, 48), make=lambda model: scfg(model, whole)
    )
    check_masks(reader, probe, [Prompt(A)], layers=host.SDXL_LAYERS)


def test_small_parts_of_a_followed_region_are_dropped(sdxl):
    positive, picture = base(A) + following(B), host.latent(32, 48)
    cleaned, ragged = (
        followed_run(sdxl, positive, image=picture, make=lambda model, s=s: scfg(model, s))[0].seen()[1]
        for s in (Settings(strength=0, min_region=0.2), Settings(strength=0, min_region=0.0))
    )
    assert not torch.equal(cleaned, ragged)


def test_following_the_words_of_two_prompts_of_which_one_has_an_area(sd15):
    positive = base(A, area=TOP) + base(C) + following(B, area=(20, 36, 4, 4))
    prompts = [Prompt(A, TOP, host_weight((H, W), TOP)), Prompt(C, None, host_weight((H, W)))]
    reader, probe, _, _ = followed_run(sd15, positive)
    wanted = WANTED | {77 + label for label in WANTED}
    check_masks(reader, probe, prompts, wanted=wanted, entry=2)
    counterparts = [masks for masks in reader.masks[2]["negative"] if masks is not None]
    assert any(torch.equal(mask, reader.seen(2)[2]) for mask in counterparts), "the host's counterpart has it too"


def test_following_from_the_negative_prompt(sd15):
    negative = NEGATIVE + following(B)
    reader, probe, _, _ = followed_run(sd15, base(A), negative)
    check_masks(reader, probe, [Prompt(A)], entry=1, name="negative")


@pytest.mark.parametrize("length", [77, 154], ids=["rows joined", "rows split"])
def test_following_with_rows_joined_or_split(sd15, length):
    reader, probe, _, _ = followed_run(sd15, base(A) + following(host.tokens(2, length)))
    check_masks(reader, probe, [Prompt(A)])


def test_following_only_in_its_part_of_the_schedule(sd15):
    positive = base(A) + following(B, start=0.3, end=0.7)
    reader, probe, _, _ = followed_run(sd15, positive, steps=6)
    check_masks(reader, probe, [Prompt(A)])
    rows = [sum(len(call.x) for call in evaluation.calls) for evaluation in probe.evaluations]
    assert rows[0] == 2
    assert 3 in rows
    assert rows[-1] == 2


def test_following_within_a_range_that_the_conditioning_had():
    (_, entry), *_ = following(B, start=0.2, end=0.9, start_percent=0.5, end_percent=1.0)
    assert (entry["start_percent"], entry["end_percent"]) == (0.5, 0.9)


def test_a_range_that_does_not_meet_that_of_the_conditioning_is_an_error():
    message = "expected a range within which the conditioning acts, 0.5 to 1, got 0 to 0.3: "
    for own in ({"start_percent": 0.5}, {"clip_start_percent": 0.5, "clip_end_percent": 1.0}):
        with pytest.raises(SettingsError, match=message):
            following(B, start=0.0, end=0.3, **own)


def test_of_scheduled_prompts_only_those_in_the_range_follow(sd15):
    """Two prompts, one after the other; the range of the words lies in the first."""
    scheduled = host.conditioning(B, end_percent=0.5) + host.conditioning(C, start_percent=0.5)
    made = follow_words(scheduled, FollowWords(OWNERS), None, 0.0, 0.4)
    _, probe, run, _ = followed_run(sd15, base(A) + made, steps=6)
    assert Note.NOT_FOLLOWED.text not in run.line
    rows = [sum(len(call.x) for call in evaluation.calls) for evaluation in probe.evaluations]
    assert (max(rows), rows[-1]) == (3, 2)


def test_following_with_a_control_net_on_the_region(sd15):
    hint = torch.rand(1, 3, 192, 320, generator=torch.Generator().manual_seed(7))
    how = {"control": control_net().set_cond_hint(hint, 0.2), "control_apply_to_uncond": False}
    reader, probe, _, output = followed_run(sd15, base(A) + following(B, **how))
    check_masks(reader, probe, [Prompt(A)])
    _, _, _, without = followed_run(sd15, base(A) + following(B))
    assert not torch.allclose(output, without, rtol=0.01)


def test_following_with_a_lora_hook_on_the_region(sd15):
    import comfy.hooks

    hook, group = comfy.hooks.WeightHook(strength_model=1.0), comfy.hooks.HookGroup()
    hook.weights, hook.need_weight_init = lora(), False
    group.add(hook)
    model = host.sd15()
    plain = base(A) + following(B)
    hooked = base(A) + following(B, hooks=group)
    model.register_all_hook_patches(group, comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model))
    reader, probe, _, output = followed_run(model, hooked)
    check_masks(reader, probe, [Prompt(A)])
    assert not torch.allclose(output, followed_run(model, plain)[3], rtol=0.01)


@pytest.mark.parametrize("cfg", [1.0, 7.0])
def test_following_at_cfg_1_and_without_guidance_by_region(sd15, cfg):
    reader, probe, run, output = followed_run(
        sd15, base(A) + following(B), make=lambda model: scfg(model, Settings(strength=0)), cfg=cfg
    )
    seen = check_masks(reader, probe, [Prompt(A)])
    plain = base(A) + host.conditioning(B, mask=torch.ones(1, H, W))
    assert torch.equal(output, host.ksample(Replay(seen).on(sd15), plain, NEGATIVE, PICTURE, steps=3, cfg=cfg))
    assert run.line.startswith("S-CFG observing: 4 layers")
    assert (Note.CFG_ONE.text in run.line) == (cfg == 1.0)
    assert len(run.run.evaluations) == 3
    assert all(torch.all(each.ratio == 1) for each in run.run.evaluations)


def test_following_with_dual_cfg(sd15):

    reader, positive = Reader(), base(A) + following(B)
    with Probe(sd15) as probe:
        guider = dual_cfg(reader.on(watching(probe.patcher).model), False)
        guider.inner_set_conds({"positive": positive, "middle": host.conditioning(C), "negative": NEGATIVE})
        host.guide_sample(guider, PICTURE, steps=3)
    check_masks(reader, probe, [Prompt(A)])


@pytest.mark.parametrize("guider", [basic, perp_neg])
def test_following_with_guiders_that_are_not_guided_by_region(sd15, guider):
    reader = Reader()
    run = watching(sd15)
    made = guider(reader.on(run.model))
    lists = {name: made.original_conds[name] for name in made.original_conds}
    made.inner_set_conds({"positive": base(A) + following(B)})
    assert set(made.original_conds) == set(lists)
    host.guide_sample(made, PICTURE, steps=3)
    assert [bool(mask.any()) for mask in reader.seen()] == [False, True, True]


def test_a_default_prompt_speaks_where_the_followed_region_is_not(sd15):
    positive = base(A, default=True) + following(B, fallback="everywhere")
    reader, probe, run, output = followed_run(sd15, positive)
    seen = check_masks(reader, probe, [Prompt(A)])
    assert torch.all(seen[0] == 0)
    assert Note.NOT_EVERYWHERE.text in run.line
    given = base(A, default=True) + host.conditioning(B, mask=torch.ones(1, H, W))
    assert torch.equal(output, host.ksample(Replay(seen).on(sd15), given, NEGATIVE, PICTURE, steps=3))


def test_a_default_prompt_is_followed_where_followers_leave_it_no_room(sd15):
    """The host runs a default prompt only where there is room; without its attention no mask would move again."""
    halves = torch.zeros(2, 1, H, W)
    halves[0, :, :, : W // 2] = 1
    halves[1] = 1 - halves[0]
    followers = [following(text, fallback="mask", given=half) for text, half in zip((B, C), halves, strict=True)]
    reader, _, run, _ = followed_run(sd15, base(A, default=True) + followers[0] + followers[1])
    room = [1 - sum(masks) for masks in zip(reader.seen(1), reader.seen(2), strict=True)]
    assert float(room[0].max()) == 1 / 256
    assert all(float(left.max()) > 0 for left in room)
    assert not torch.equal(reader.seen(1)[0], reader.seen(1)[1])
    assert Note.NOT_FOLLOWED.text not in run.line


def test_following_between_the_evaluations_that_collect(sd15):
    from scfg_core.run.session import Collection

    reader, probe, _, _ = followed_run(
        sd15, base(A) + following(B), make=lambda model: watching(model, Collection(every=2)), steps=4
    )
    seen = reader.seen()
    mask, tied = expected_mask(probe, 0, [Prompt(A)], WANTED)
    for index in (1, 2):
        assert np.array_equal(seen[index].numpy()[~tied], mask[~tied])
    mask, tied = expected_mask(probe, 2, [Prompt(A)], WANTED)
    assert np.array_equal(seen[3].numpy()[~tied], mask[~tied])


def test_following_leaves_the_conditioning_as_it_was(sd15):
    text, mask = host.conditioning(B), torch.rand(1, H, W)
    made = follow_words(text, FollowWords(OWNERS), None, 0.0, 1.0)
    assert "mask" not in text[0][1]
    before = dict(made[0][1])
    host.ksample(watching(sd15).model, base(A) + made, NEGATIVE, PICTURE, steps=2)
    assert made[0][1].keys() == before.keys()
    assert all(made[0][1][key] is before[key] for key in before)
    assert torch.all(made[0][1]["mask"] == 0)
    assert mask is not made[0][1]["mask"]
