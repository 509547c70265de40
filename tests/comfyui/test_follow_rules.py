"""Masks that follow words: what they refuse, what they fall back to, and that nothing of a run stays behind."""

import copy
import logging

import pytest
import torch

from scfg_core import Note, SettingsError
from scfg_core.hosts.comfyui import follow_words
from scfg_core.run.follow import FollowWords

from . import host
from .expected import watching
from .following import OWNERS, Reader, base, following
from .test_follow import NEGATIVE, PAIR, PICTURE, A, B, H, W, followed_run
from .test_lifecycle import fail_at, state
from .transformers.models import FAMILIES

NO_WORDS = (("<start>", *["<end>"] * 76), (-1,) * 77)
"""What S-CFG Text Encode says of an empty prompt."""
HALF = torch.cat([torch.ones(1, H, W // 2), torch.zeros(1, H, W // 2)], dim=2)


def set_mask(conditioning, mask, bounds=False, strength=1.0):
    """What Conditioning Set Mask does."""
    import nodes

    where = "mask bounds" if bounds else "default"
    return nodes.ConditioningSetMask().append(conditioning, mask, where, strength)[0]


# ---- what is refused, before sampling ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positive", "message"),
    [
        (base(A) + following(B, "zebra"), "expected words of the prompt, got 'zebra': use some of w1, w3"),
        (host.conditioning(A) + following(B), "expected a prompt with known words, got numbered tokens"),
        (base(A, scfg_words=NO_WORDS) + following(B), "expected a prompt with words, got an empty one: write some"),
        (
            base(A, scfg_words=NO_WORDS) + host.conditioning(B) + following(B),
            "expected a prompt with known words, got numbered tokens",
        ),
        (following(B), "expected a base prompt beside the one that follows words, got none"),
        (base(A) + following(B, default=True), "expected the base prompt as the default one"),
    ],
    ids=[
        "word that is not there",
        "words not known",
        "no words",
        "one not known",
        "no base",
        "follower as default",
    ],
)
def test_what_cannot_be_followed_is_an_error_before_sampling(sd15, positive, message):
    calls = []
    model = watching(sd15).model
    with pytest.raises(ValueError, match=message) as raised:
        host.ksample(model, positive, NEGATIVE, PICTURE, callback=lambda *_: calls.append(1))
    assert raised.type is ValueError, "the host shows the name of its class"
    assert not calls


@pytest.mark.parametrize("after", [False, True])
def test_following_within_mask_bounds_is_an_error(sd15, after):
    with pytest.raises(ValueError, match="mask bounds"):
        if after:
            positive = base(A) + set_mask(following(B), HALF, bounds=True)
            host.ksample(watching(sd15).model, positive, NEGATIVE, PICTURE)
        else:
            follow_words(set_mask(host.conditioning(B), HALF, bounds=True), FollowWords("w1"), None, 0, 1)


def test_following_twice_is_an_error():
    with pytest.raises(SettingsError, match="name all words in one node"):
        follow_words(following(B), FollowWords("w1"), None, 0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": " , "}, "expected words of the prompt, got none"),
        ({"words": "a", "mode": "fuzzy"}, "expected a mode of hard, soft, stretched"),
        ({"words": "a", "feather": -1.0}, "expected feather"),
        ({"words": "a", "freeze": 1.5}, "expected freeze"),
        ({"words": "a", "blend": 0}, "expected blend"),
        ({"words": "a", "min_share": 0.6, "max_share": 0.5}, "expected shares"),
        ({"words": "a", "fallback": "here"}, "expected a fallback"),
    ],
)
def test_a_follow_setting_out_of_range_is_an_error(options, message):
    with pytest.raises(SettingsError, match=message):
        FollowWords(**options)


def test_a_fallback_to_a_mask_follows_only_with_one():
    with pytest.raises(SettingsError, match="expected a mask to fall back to"):
        following(B, fallback="mask")
    with pytest.raises(SettingsError, match="expected start_percent below end_percent"):
        following(B, start=0.5, end=0.5)


# ---- masks that are there already, and fallbacks -----------------------------------------------------------


@pytest.mark.parametrize("after", [False, True], ids=["set before", "set after"])
def test_a_mask_that_is_there_multiplies_the_followed_one(sd15, after):
    if after:
        conditioning = set_mask(following(B, fallback="everywhere"), HALF)
    else:
        request = FollowWords(OWNERS, fallback="everywhere")
        conditioning = follow_words(set_mask(host.conditioning(B), HALF), request, None, 0, 1)
    masked = followed_run(sd15, base(A) + conditioning, image=PAIR)[0].seen()
    assert torch.equal(masked[0], HALF.expand(2, -1, -1)), "everywhere before the first labels, within the mask"
    assert torch.all(masked[1][:, :, W // 2 :] == 0)
    assert masked[1][:, :, : W // 2].any()
    assert not masked[1][:, :, : W // 2].all()


def test_before_the_first_labels_the_given_mask_is_followed(sd15):
    given = torch.rand(1, 3 * H, 3 * W, generator=torch.Generator().manual_seed(3))
    seen = followed_run(sd15, base(A) + following(B, given=given, fallback="mask"))[0].seen()
    plain = Reader()
    host.ksample(plain.on(sd15), base(A) + host.conditioning(B, mask=given), NEGATIVE, PICTURE)
    assert torch.equal(seen[0], plain.seen()[0]), "as the host brings a mask to the latent"
    assert set(seen[1].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(("given", "within"), [(1, 3), (2, 4), (4, 2), (3, 1)])
def test_masks_of_several_images_are_repeated_as_the_host_does(given, within):
    masks = [torch.rand(count, H, W, generator=torch.Generator().manual_seed(count)) for count in (given, within)]
    conditioning = set_mask(host.conditioning(B), masks[1])
    ((_, entry),) = follow_words(conditioning, FollowWords("w1", fallback="mask"), masks[0], 0, 1)
    images = max(given, within)
    one, other = (mask.repeat(images // len(mask), 1, 1) for mask in masks)
    assert torch.equal(entry["mask"].as_subclass(torch.Tensor), one * other)


@pytest.mark.parametrize("after", [False, True], ids=["set before", "set after"])
def test_masks_of_numbers_of_images_that_do_not_fit_are_an_error(sd15, after):
    given, within = torch.ones(2, H, W), torch.ones(3, H, W)
    message = "expected a given mask of 1 image, or of 3 like the mask of the conditioning, got 2: "
    with pytest.raises(ValueError, match=message):
        if after:
            positive = base(A) + set_mask(following(B, fallback="mask", given=given), within)
            host.ksample(watching(sd15).model, positive, NEGATIVE, PICTURE)
        else:
            conditioning = set_mask(host.conditioning(B), within)
            follow_words(conditioning, FollowWords("w1", fallback="mask"), given, 0, 1)


@pytest.mark.parametrize(("shares", "falls"), [((0.0, 1.0), False), ((0.0, 0.02), True), ((0.98, 1.0), True)])
def test_a_followed_region_out_of_its_share_falls_back(sd15, shares, falls):
    options = {"min_share": shares[0], "max_share": shares[1], "fallback": "everywhere"}
    reader, _, run, _ = followed_run(sd15, base(A) + following(B, **options))
    assert [bool(mask.all()) for mask in reader.seen()] == [True, falls, falls]
    assert (Note.FELL_BACK.text in run.line) == falls


def test_a_followed_region_that_vanishes_on_the_way(sd15):
    """The base prompt with the words leaves the stage in the middle of the run; another one stays."""
    positive = base(A, end_percent=0.4) + base(
        host.tokens(9), scfg_words=(("x", ",") * 38 + ("x",), (-1, *range(76)))
    )
    reader, _, run, output = followed_run(sd15, positive + following(B, min_share=0.01), steps=6)
    shares = [float(mask.mean()) for mask in reader.seen(2)]
    assert shares[1] > 0.05
    assert shares[-1] == 0
    assert Note.FELL_BACK.text in run.line
    assert torch.isfinite(output).all()


def test_a_frozen_region_is_followed_no_more(sd15):
    seen = followed_run(sd15, base(A) + following(B, freeze=0.5), steps=6)[0].seen()
    moving = followed_run(sd15, base(A) + following(B), steps=6)[0].seen()
    same = [torch.equal(one, other) for one, other in zip(seen[1:], seen[2:], strict=False)]
    assert not all(same)
    assert same[-1]
    assert torch.equal(seen[-1], seen[-2])
    assert not torch.equal(moving[-1], moving[-2])


def test_a_frozen_region_stays_while_another_is_followed(sd15):
    positive = base(A) + following(B, freeze=0.5) + following(host.tokens(8))
    reader = followed_run(sd15, positive, steps=6)[0]
    frozen, moving = reader.seen(1), reader.seen(2)
    assert torch.equal(frozen[-1], frozen[-2])
    assert not torch.equal(moving[-1], moving[-2])


def test_a_frozen_region_costs_nothing_at_cfg_1(sd15):
    positive = base(A) + following(B, freeze=0.5)
    run = followed_run(sd15, positive, steps=6, cfg=1.0)[2]
    assert 0 < len(run.run.evaluations) < 6, "no attention is observed once nothing moves"


def test_followed_regions_are_blended_over_evaluations(sd15):
    alone = followed_run(sd15, base(A) + following(B), steps=5)[0].seen()
    blended = followed_run(sd15, base(A) + following(B, blend=2), steps=5)
    seen = blended[0].seen()
    assert torch.equal(seen[1], alone[1])
    values = set(seen[2].unique().tolist())
    assert 0.5 in values
    assert values <= {0.0, 0.5, 1.0}


@pytest.mark.parametrize("mode", ["soft", "stretched"])
def test_soft_regions_are_followed(sd15, mode):
    mask = followed_run(sd15, base(A) + following(B, mode=mode))[0].seen()[1]
    assert len(mask.unique()) > 20
    assert 0 <= float(mask.min()) < float(mask.max()) <= 1
    assert (float(mask.min()), float(mask.max())) == (0, 1) or mode == "soft"


def test_a_feathered_region_is_followed(sd15):
    sharp, soft = (followed_run(sd15, base(A) + following(B, feather=width))[0].seen()[1] for width in (0.0, 2.0))
    assert set(sharp.unique().tolist()) == {0.0, 1.0}
    assert len(soft.unique()) > 10
    assert abs(float(sharp.mean() - soft.mean())) < 0.05


# ---- the host without S-CFG, and what stays behind ---------------------------------------------------------


@pytest.mark.parametrize(("fallback", "value"), [("nowhere", 0.0), ("everywhere", 1.0)])
def test_without_a_node_on_the_model_the_fallback_holds_and_the_log_says_so(sd15, caplog, fallback, value):
    positive = base(A) + following(B, fallback=fallback)
    plain = base(A) + host.conditioning(B, mask=torch.full((1, H, W), value))
    with caplog.at_level(logging.WARNING):
        output = host.ksample(sd15, positive, NEGATIVE, PICTURE)
    assert Note.NOT_FOLLOWED.text in caplog.text
    expected = host.ksample(sd15, plain, NEGATIVE, PICTURE)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        host.ksample(watching(sd15).model, positive, NEGATIVE, PICTURE)
    assert Note.NOT_FOLLOWED.text not in caplog.text


def test_without_a_conditioning_that_follows_nothing_changes(sd15):
    positive = base(A) + host.conditioning(B)
    run = watching(sd15)
    plain = host.ksample(sd15, positive, NEGATIVE, PICTURE)
    assert torch.equal(host.ksample(run.model, positive, NEGATIVE, PICTURE), plain)
    assert "follows" not in run.line
    assert run.run.evaluations[-1].followed is None


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("stop")], ids=["interrupt", "error"])
def test_an_interrupt_while_following_leaves_the_next_run_bit_equal(sd15, error):
    positive = base(A) + following(B)
    expected = host.ksample(watching(sd15).model, positive, NEGATIVE, PICTURE, steps=3)
    model = watching(sd15).model
    before = state(model)
    with pytest.raises(type(error)):
        host.ksample(model, positive, NEGATIVE, PICTURE, steps=3, callback=fail_at(1, error))
    assert state(model) == before
    assert torch.equal(host.ksample(model, positive, NEGATIVE, PICTURE, steps=3), expected)
    with pytest.raises(ValueError, match="zebra"):
        host.ksample(model, base(A) + following(B, "zebra"), NEGATIVE, PICTURE)
    assert state(model) == before
    assert torch.equal(host.ksample(model, positive, NEGATIVE, PICTURE, steps=3), expected)


def test_an_internal_error_while_following_gives_an_image(sd15, monkeypatch):
    from scfg_core.run.follow import Follower

    def broken(*_):
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(Follower, "update", broken)
    run = watching(sd15)
    output = host.ksample(run.model, base(A) + following(B), NEGATIVE, PICTURE)
    assert torch.isfinite(output).all()
    assert "internal S-CFG error" in run.line


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda given: [[text, with_copied_mask(e)] for text, e in given]]
)
@pytest.mark.parametrize("fallback", ["nowhere", "everywhere"])
def test_a_copied_conditioning_follows_as_the_first_does(sd15, copied, fallback):
    positive = following(B, fallback=fallback)
    expected, found = (followed_run(sd15, base(A) + each)[0].seen() for each in (positive, copied(positive)))
    assert [bool(mask.any()) for mask in expected[1:]] == [True, True]
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def with_copied_mask(entry):
    return {**entry, "mask": entry["mask"].clone()}


def test_a_node_that_samples_twice_in_one_run_follows_in_both(sd15):
    """AnimateDiff-Evolved calls the host's sampling again for its noise calibration."""
    once = followed_run(sd15, base(A) + following(B))[0].seen()
    outer, twice = sd15.clone(), Reader()
    outer.add_wrapper_with_key("outer_sample", "twice", sampled_twice)
    host.ksample(twice.on(watching(outer).model), base(A) + following(B), NEGATIVE, PICTURE, steps=3)
    seen = twice.seen()
    assert len(seen) == 2 * len(once)
    assert all(torch.equal(one, other) for one, other in zip(seen, once * 2, strict=True))


def sampled_twice(executor, *given, **named):
    executor(*given, **named)
    return executor(*given, **named)


@pytest.mark.parametrize("options", [{"freeze": 0.0}, {"freeze": 0.2}])
def test_a_region_that_is_frozen_before_the_first_step_is_not_followed_and_it_is_said(sd15, options):
    run = watching(sd15)
    host.ksample(run.model, base(A) + following(B, **options), NEGATIVE, PICTURE, steps=3, denoise=0.4)
    assert Note.NOT_FOLLOWED.text in run.line


def test_a_model_that_cannot_be_observed_does_not_follow_and_says_so():
    from .test_models import Transformer

    run = watching(host.wrapped(Transformer))
    output = host.ksample(run.model, base(A) + following(B), NEGATIVE, PICTURE)
    assert torch.isfinite(output).all()
    assert Note.NOT_FOLLOWED.text in run.line


@pytest.mark.parametrize("name", ["sd3", "qwen"])
def test_following_in_a_transformer(name):
    family = FAMILIES[name]
    text, other, negative = (family.text(seed, family.lengths[0]) for seed in (1, 2, 3))
    columns = family.lengths[0]
    words = ["<start>", *(f"w{index}" if index % 2 else "," for index in range(1, columns))]
    text[0][1]["scfg_words"] = (tuple(words), (-1, *range(columns - 1)))
    made = follow_words(other, FollowWords(", ".join(words[1 : columns // 2 + 1 : 2])), None, 0, 1)
    reader = Reader()
    run = watching(family.build())
    with torch.inference_mode():
        host.ksample(reader.on(run.model), text + made, negative, family.latent(20, 28), cfg=4.0, steps=3)
    shares = [float(mask.mean()) for mask in reader.seen()]
    assert shares[0] == 0
    assert all(0.02 < share < 0.98 for share in shares[1:]), shares
    assert reader.seen()[1].shape[-2:] == (20, 28)
