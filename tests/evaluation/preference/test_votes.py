"""Votes counted: against numbers worked out by hand and formulas of textbooks."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.preference.key import QUESTIONS, Key, PreferenceError
from evaluation.preference.result import count_votes, markdown

from .experiment import ARMS, PAIRS, A, B, preferring, write


def test_one_voter_is_counted_by_arm_and_not_by_side(tmp_path, key):
    said = [(A, A)] * 3 + [(B, A)] * 5 + [(B, None)] * 4 + [(None, None)] * 2 + [(B,)]
    voter = write(tmp_path, key, "v", preferring(key, dict(zip(key.left, said, strict=False))))
    found = count_votes(key, [voter])
    alignment, quality, overall = (found.questions[name] for name in ("alignment", "quality", "overall"))
    assert (alignment.wins, alignment.losses, alignment.ties) == (3, 10, 2)
    assert (quality.wins, quality.losses, quality.ties) == (8, 0, 6)
    assert (overall.wins, overall.losses, overall.ties) == (3, 4, 7)
    assert (found.voters, found.pairs, found.notes) == (1, PAIRS, [])
    assert alignment.share == pytest.approx(3 / 13)
    assert alignment.wilson == pytest.approx(tuple(binomtest(3, 13).proportion_ci(method="wilson")))
    assert alignment.sign_test == pytest.approx(2 * sum(map(binomial_13, range(4))))
    assert alignment.over_pairs is None


def binomial_13(k):
    return [1, 13, 78, 286][k] / 2**13


def test_wilson_is_that_of_the_textbook(tmp_path, key):
    """Of 10 votes 8: (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)."""
    said = [(A,)] * 8 + [(B,)] * 2
    voter = write(tmp_path, key, "v", preferring(key, dict(zip(key.left, said, strict=False))))
    low, high = count_votes(key, [voter]).questions["alignment"].wilson
    assert (low, high) == pytest.approx((0.490, 0.943), abs=5e-4)


def test_the_share_of_the_left_picture_betrays_who_does_not_look(tmp_path, key):
    voter = write(tmp_path, key, "v", {pair: dict.fromkeys(QUESTIONS, "left") for pair in key.left})
    overall = count_votes(key, [voter]).questions["overall"]
    assert (overall.left, overall.share, overall.sign_test) == (1.0, 0.5, pytest.approx(1.0))


def test_votes_of_several_about_one_pair_are_not_taken_as_independent(tmp_path, key):
    """Ten voters of one mind about four pairs are no more than one voter."""
    said = dict(zip(key.left, [(A, A)] * 3 + [(B, B)], strict=False))
    voters = [write(tmp_path, key, f"v{number}", preferring(key, said)) for number in range(10)]
    many = count_votes(key, voters).questions["overall"]
    one = count_votes(key, voters[:1]).questions["overall"]
    assert (many.wins, many.losses, many.share) == (30, 10, one.share)
    assert many.sign_test == one.sign_test == pytest.approx(0.625)
    low, high = many.over_pairs
    assert low <= 0.25 and high == 1.0, "of four pairs, resampled, 5 % or more have one or four for A"
    assert many.wilson[0] > 0.5 > low
    assert "use the interval over pairs" in markdown(count_votes(key, voters))


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean(tmp_path, key):
    """Where every pair has as many decided votes, the share is a mean over pairs."""
    rng = np.random.default_rng(1)
    arms = np.array(ARMS)[rng.integers(0, 2, (4, PAIRS))]
    answers = [preferring(key, dict(zip(key.left, said[:, None], strict=True))) for said in arms]
    voters = [write(tmp_path, key, f"v{number}", said) for number, said in enumerate(answers)]
    found = count_votes(key, voters).questions["alignment"]
    shares = (arms == A).mean(0)
    assert found.share == pytest.approx(shares.mean())
    half = 1.96 * shares.std() / PAIRS**0.5
    assert found.over_pairs == pytest.approx((shares.mean() - half, shares.mean() + half), abs=0.02)


def test_a_voter_who_saved_twice_counts_once_with_the_newest(tmp_path, key):
    first, second = list(key.left)[:2]
    early = write(tmp_path, key, "v", preferring(key, {first: (A, A)}), saved="2026-01-01T10:00:00.000Z")
    late = write(tmp_path, key, "v", preferring(key, {first: (A, A), second: (B, B)}), "2027-01-01T00:00:00.000Z")
    for files in ([early, late], [late, early]):
        found = count_votes(key, files)
        assert (found.voters, found.questions["overall"].losses) == (1, 1)
        assert found.notes == [f"{files[1].name}: voter v again; the newest file counts"]
        assert "Note: " in markdown(found)


def test_without_a_decided_vote_there_is_no_share(tmp_path, key):
    voter = write(tmp_path, key, "v", preferring(key, dict.fromkeys(key.left, (None, None))))
    found = count_votes(key, [voter])
    overall = found.questions["overall"]
    assert (overall.ties, overall.share, overall.wilson, overall.sign_test) == (PAIRS, None, None, None)
    assert f"| overall | 0 | 0 | {PAIRS} | – | – | – | – | – |" in markdown(found)


def test_a_voter_without_answers_is_named(tmp_path, key):
    full = write(tmp_path, key, "full", preferring(key, {next(iter(key.left)): (A, A)}))
    found = count_votes(key, [full, write(tmp_path, key, "empty", {})])
    assert (found.voters, found.notes) == (1, ["voter empty has answered nothing"])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"study": "another"}, "got another: count them with the key of that page"),
        ({"answers": {"unknown": {"quality": "left"}}}, "got 'unknown'"),
        ({"answers": {}}, "at least one answer"),
        ({"answers": []}, "got something else"),
        ({"voter": 1}, "got something else"),
        ({"answers": ["taste"]}, "got something else"),
    ],
)
def test_votes_that_cannot_be_counted_say_why(tmp_path, key, other, said):
    path = write(tmp_path, key, "v", {})
    path.write_text(json.dumps(json.loads(path.read_text()) | other))
    with pytest.raises(PreferenceError, match=said):
        count_votes(key, [path])


@pytest.mark.parametrize("answers", [{"taste": "left"}, {"quality": "both"}, {"quality": []}, "left"])
def test_answers_that_the_page_cannot_give_are_refused(tmp_path, key, answers):
    path = write(tmp_path, key, "v", {next(iter(key.left)): answers})
    with pytest.raises(PreferenceError, match="answers of the page"):
        count_votes(key, [path])


def test_a_file_that_is_no_json_or_not_there_is_named(tmp_path, key):
    (tmp_path / "broken.json").write_text('{"study"')
    for name, said in (("broken.json", "expected JSON in .*broken.json"), ("none.json", "none.json, got No such")):
        with pytest.raises(PreferenceError, match=said):
            count_votes(key, [tmp_path / name])
    with pytest.raises(PreferenceError, match="the key of a page"):
        Key.read(write(tmp_path, key, "v", {}))
