"""Word weights: what is written, what is refused, and what they do in a run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scfg_core import Grid, Note, Prompt, Settings, SettingsError, WordWeight, WordWeights, parse_weights
from scfg_core.method.guidance import ratio_map
from scfg_core.prompt import number_labels
from scfg_core.run.phrases import phrases_of
from scfg_core.run.record import Run
from scfg_core.run.regions import regions_of
from scfg_core.run.session import Collection, Placement, Session

from .test_phrases import prompt
from .test_session import GRID, cross_call, predictions, qk, self_call
from .waits import Waits

TEXT = "a red star and cat"
READ = prompt(TEXT)
EMPTY = Prompt.plain("uncond", READ.num_tokens)
PLAIN = Settings(smooth_ratio=False)


def test_weights_are_read_with_their_parts_of_the_schedule():
    text = "horse: 1.3, Red  Hat:0.8 @ 0-0.5,\nsky : 0 @.25 – 1, :d: 2"
    assert parse_weights(text).entries == (
        WordWeight("horse", 1.3),
        WordWeight("red hat", 0.8, 0.0, 0.5),
        WordWeight("sky", 0.0, 0.25, 1.0),
        WordWeight(":d", 2.0),
    )
    assert parse_weights("") == WordWeights()
    assert parse_weights("a: 1").scope == "phrase" and parse_weights("a: 1", "word").scope == "word"


def test_chinese_and_japanese_marks_are_read_as_well():
    assert parse_weights("猫：1.3，狗: 0.8、馬：2").entries == (
        WordWeight("猫", 1.3),
        WordWeight("狗", 0.8),
        WordWeight("馬", 2.0),
    )


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("horse", "'horse'"),
        ("horse: big", "'big'"),
        (": 1", "': 1'"),
        ("horse: -1", "'-1'"),
        ("horse: nan", "'nan'"),
        ("horse: 11", "'11'"),
        ("horse: @ 0-1", "''"),
        ("horse: 2 @", "''"),
        ("horse: 2 @ 0.5", "'0.5'"),
        ("horse: 2 @ 0-half", "'0-half'"),
        ("horse: 2 @ 0-0.5-1", "'0-0.5-1'"),
        ("horse: 2 @ 0-50", "0-50"),
        ("horse: 2 @ 0.5-0.5", "0.5-0.5"),
        ("horse: 2 @ 0.6-0.5", "0.6-0.5"),
        ("a: 1, A: 2", "two"),
        ("a: 1 @ 0-0.6, a: 2 @ 0.5-1", "two"),
    ],
)
def test_bad_weights_are_named(text, got):
    with pytest.raises(SettingsError, match="expected .*, got ") as error:
        parse_weights(text)
    assert f"got {got}: " in str(error.value)


def test_a_word_may_have_another_weight_in_another_part():
    first, second = parse_weights("a: 2 @ 0-0.5, a: 0.5 @ 0.5-1").entries
    assert (first.factor, second.factor) == (2.0, 0.5)


def test_what_others_pass_is_taken():
    assert WordWeights.of(None) == WordWeights()
    assert WordWeights.of({"star": 2}) == WordWeights((WordWeight("star", 2),), "phrase")
    assert WordWeights.of({np.int64(3): 2.0}) == WordWeights((WordWeight(3, 2.0),), "word")
    weights = parse_weights("star: 2", "word")
    assert WordWeights.of(weights) is weights


@pytest.mark.parametrize("given", [["star"], "star: 2", {1.5: 2.0}, {"star": "2"}, {"star": -1.0}, {-1: 2.0}])
def test_what_cannot_be_meant_is_refused(given):
    with pytest.raises(SettingsError, match="expected .*, got "):
        WordWeights.of(given)


def test_an_unknown_scope_is_refused():
    with pytest.raises(SettingsError, match="expected a scope"):
        parse_weights("star: 2", "sentence")  # pyright: ignore[reportArgumentType]


def evaluate(weights, settings=PLAIN, prompts=(READ,), seed=0, progress=0.0, run=None, session=None, **more):
    """One evaluation; (ratio, run, session, the segmentation that it found)."""
    if session is None:
        run = Run()
        session = Session(settings, Collection(soft_maps=True), run, word_weights=weights, **more)
    names = [f"text {number}" for number in range(len(prompts))]
    session.begin({**dict(zip(names, number_labels(prompts), strict=True)), "empty": EMPTY})
    for number, name in enumerate(("empty", *names)):
        rows = [type(self_call(*qk(0, 1)).rows[0])(name, slice(0, 1))]
        q, k = qk(seed + 10 * number, GRID.area)
        session.observe(self_call(q[:1], k[:1], rows))
        q, k = qk(seed + 10 * number + 1, READ.num_tokens)
        session.observe(cross_call(3 * q[:1], k[:1], rows))
    delta = torch.randn(1, 4, 8, 10, generator=torch.Generator().manual_seed(seed + 2))
    seen = replace(predictions(delta), within=lambda start, end: start <= progress <= end)
    ratio = session.ratio(seen, [Placement(name) for name in names], [Placement("empty")])
    session.end_evaluation()
    return ratio, run, session


def regions(run, scope="phrase"):
    """(8, 10) regions of the last evaluation, from its soft maps."""
    last = run.evaluations[-1]
    found = last.labels[0].long() if scope == "word" else regions_of(last.soft_maps(), run.prompts, scope)[0]
    return found.repeat_interleave(2, 0).repeat_interleave(2, 1)


@pytest.mark.parametrize("settings", [PLAIN, Settings(), Settings.preset("balanced"), Settings(regions="patch")])
@pytest.mark.parametrize("scope", ["phrase", "word"])
def test_a_weight_of_one_is_bit_equal_to_none(settings, scope):
    plain, *_ = evaluate(None, settings)
    weighted, run, _ = evaluate(parse_weights("star: 1, cat: 1.0 @ 0-0.5", scope), settings)
    assert torch.equal(weighted, plain) and run.notes == []


def test_a_weight_acts_on_the_region_of_the_whole_phrase_and_on_nothing_else():
    plain, *_ = evaluate(None)
    weighted, run, _ = evaluate({"star": 0.5})
    mine = regions(run) == 0
    assert phrases_of(run.prompts)[0].text == "red star"
    assert 0.1 < mine.float().mean() < 0.9
    assert torch.equal(weighted[0, 0][mine], plain[0, 0][mine] / 2)
    assert torch.equal(weighted[0, 0][~mine], plain[0, 0][~mine])
    assert run.notes == []


def test_by_word_a_weight_acts_on_the_patches_of_its_own_tokens():
    plain, run, _ = evaluate(None)
    word = max((3, 5), key=lambda label: (run.evaluations[0].labels == label).sum())
    weighted, run, _ = evaluate(WordWeights((WordWeight(READ.texts[word], 0.5),), "word"))
    mine = regions(run, "word") == word
    assert mine.any()
    assert torch.equal(weighted[0, 0][mine], plain[0, 0][mine] / 2)
    assert torch.equal(weighted[0, 0][~mine], plain[0, 0][~mine])
    by_label, *_ = evaluate({word: 0.5})
    assert torch.equal(by_label, weighted)


def test_where_two_weights_meet_the_later_one_counts():
    last, *_ = evaluate(parse_weights("red: 3, star: 0.5"))
    alone, *_ = evaluate(parse_weights("star: 0.5"))
    neutral, *_ = evaluate(parse_weights("star: 0.5, red: 1"))
    plain, *_ = evaluate(None)
    assert torch.equal(last, alone) and not torch.equal(alone, plain)
    assert torch.equal(neutral, plain)


def test_phrases_are_those_of_every_entry():
    plain, *_ = evaluate(None, prompts=(READ, prompt("a blue dog in fog")))
    weighted, run, _ = evaluate({"dog": 0.0}, prompts=(READ, prompt("a blue dog in fog")))
    mine = regions(run) == 2
    assert [phrase.text for phrase in phrases_of(run.prompts)][2] == "blue dog" and mine.any()
    assert (weighted[0, 0][mine] == 0).all() and torch.equal(weighted[0, 0][~mine], plain[0, 0][~mine])


def test_a_weight_acts_in_its_part_of_the_schedule():
    weights = parse_weights("star: 0.5 @ 0-0.5, star: 0 @ 0.6-1")
    for progress, factor in ((0.0, 0.5), (0.5, 0.5), (0.55, 1.0), (0.6, 0.0), (1.0, 0.0)):
        plain, *_ = evaluate(None)
        weighted, run, _ = evaluate(weights, progress=progress)
        mine = regions(run) == 0
        assert torch.equal(weighted[0, 0][mine], plain[0, 0][mine] * factor), progress


def test_evaluations_without_maps_use_the_last_regions():
    _, run, session = evaluate({"star": 0.5})
    session.begin({"text 0": READ, "empty": EMPTY})
    delta = torch.randn(1, 4, 8, 10, generator=torch.Generator().manual_seed(9))
    ratio = session.ratio(predictions(delta), [Placement("text 0")], [Placement("empty")])
    mine = regions_of(run.evaluations[0].soft_maps(), run.prompts, "phrase")[0] == 0
    mine = mine.repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert [kept.fresh for kept in run.evaluations] == [True, False]
    assert ratio[0, 0][mine].max() <= 0.5 * 3 and ratio[0, 0][~mine].min() >= 0.8
    assert (ratio[0, 0][mine] < 0.8).any()


def test_with_regions_of_the_callers_own_a_patch_is_of_the_phrase_of_its_label():
    def star_on_the_left(found):
        labels = torch.zeros_like(found.labels)
        labels[:, :, :2] = 3
        return replace(found, labels=labels)

    plain, *_ = evaluate(None, resegment=star_on_the_left)
    weighted, *_ = evaluate({"red": 0.5}, resegment=star_on_the_left)
    assert torch.equal(weighted[..., :4], plain[..., :4] / 2) and torch.equal(weighted[..., 4:], plain[..., 4:])


def owned(weights, **more):
    _, run, _ = evaluate(weights, **more)
    run.close()
    return run.notes


def test_a_word_that_owns_nothing_is_named_when_the_run_ends():
    def nobodys(found):
        return replace(found, labels=torch.zeros_like(found.labels))

    note = Note.OWNS_NOTHING.text.format(word="star")
    assert note == "'star' owns no region: no effect"
    assert owned({"star": 2.0}, resegment=nobodys) == [note]
    assert owned({"star": 1.0}, resegment=nobodys) == []
    assert owned({"star": 2.0}) == []
    assert owned({"and": 2.0}) == [Note.OWNS_NOTHING.text.format(word="and")]
    assert owned({"zebra": 2.0}) == [Note.UNKNOWN_WORD.text.format(word="zebra")]
    assert owned({99: 2.0}) == [Note.OWNS_NOTHING.text.format(word=99)]
    assert owned(parse_weights("star: 2 @ 0.5-1"), resegment=nobodys) == [], "its part never came"
    assert owned({"star": 2.0}, resegment=nobodys, settings=Settings(strength=0.0)) == []


def test_a_word_that_owned_something_once_is_not_named():
    owner = iter([3, 0])

    def only_first(found):
        return replace(found, labels=torch.full_like(found.labels, next(owner)))

    _, run, session = evaluate({"star": 2.0}, resegment=only_first)
    evaluate(None, run=run, session=session)
    run.close()
    assert run.notes == []


def test_a_run_knows_how_small_a_region_may_be():
    for name, share in (("default", 0.01), ("paper", 0.0), ("authors", 0.0)):
        _, run, _ = evaluate(None, Settings.preset(name))
        assert run.min_region == share


@pytest.mark.parametrize("scope", ["phrase", "word"])
def test_weights_never_wait_for_the_device(scope):
    session = Session(PLAIN, Collection(), Run(), word_weights=parse_weights("star: 2 @ 0-0.5, cat: 0.5", scope))
    session.begin({"text": READ, "empty": EMPTY})
    rows = self_call(*qk(0, 1)).rows
    with Waits() as waits:
        for call in (self_call(*qk(0, GRID.area), rows), cross_call(*qk(1, READ.num_tokens), rows)):
            session.observe(replace(call, q=call.q.to("meta"), k=call.k.to("meta")))
        seen = predictions(torch.randn(1, 4, 8, 10, device="meta"))
        waits.found.clear()
        assert session.ratio(seen, [Placement("text")], [Placement("empty")]) is not None
        assert session.run.notes == []
        assert waits.found == []


def test_weights_of_labels_are_those_of_the_ratio_map():
    plain, run, _ = evaluate({2: 0.5, 5: 3.0})
    (last,) = run.evaluations
    delta = torch.randn(1, 4, 8, 10, generator=torch.Generator().manual_seed(2))
    from scfg_core import Segmentation

    found = Segmentation(last.labels.long(), last.foreground)
    assert found.grid == Grid(4, 5)
    assert torch.equal(ratio_map(delta, found, PLAIN, 5.0, {2: 0.5, 5: 3.0}), plain)
