"""Count the votes: which arm voters preferred, and with what uncertainty.

Shares are of the votes that saw a difference. "Overall" combines a voter's two answers about a pair into one
verdict: the arm that is ahead over both, or a tie. Wilson's interval treats votes as independent. Votes of several
voters on the same pair are not, so several voters also get a bootstrap interval over pairs; the sign test always
counts a pair once, for the arm that most of its votes prefer.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest, bootstrap

from scfg_core import ScfgError

from .key import LEFT, QUESTIONS, RIGHT, Key
from .votes import read_votes

Interval = tuple[float, float]


@dataclass(frozen=True)
class Count:
    """The votes on one question. Shares and intervals are 0…1 and None if no vote decides.

    wins, losses, ties  votes for A, for B, for neither.
    share               wins / (wins + losses).
    wilson              95 % interval of the share, with independent votes.
    over_pairs          the same, by bootstrap over pairs; None for a single voter.
    sign_test           two-sided p-value for "as many pairs prefer A as B".
    left                share of the left image; far from ½ if voters did not look.
    """

    wins: int
    losses: int
    ties: int
    share: float | None
    wilson: Interval | None
    over_pairs: Interval | None
    sign_test: float | None
    left: float | None


@dataclass(frozen=True)
class Vote:
    """One verdict on a pair: +1 for A or for the left image, −1 for the other, 0 for neither."""

    pair: str
    for_a: int
    for_left: int


@dataclass(frozen=True)
class Result:
    """The outcome of a vote: counts by question, "overall" last, and notes on files that were not counted."""

    arms: tuple[str, str]
    scale: float
    pairs: int
    voters: int
    questions: dict[str, Count]
    notes: list[str]


def count_votes(key: Key, paths: Sequence[Path]) -> Result:
    """Read the voters' files and count them. Raises as `read_votes`."""
    answers, notes = read_votes(key, paths)
    by_question: dict[str, list[Vote]] = {name: [] for name in (*QUESTIONS, "overall")}
    for voter in answers:
        for pair, choices in voter.items():
            votes = {question: _vote(key, pair, [choice]) for question, choice in choices.items()}
            if votes.keys() == QUESTIONS.keys():
                votes["overall"] = _vote(key, pair, choices.values())
            for question, vote in votes.items():
                by_question[question].append(vote)
    counts = {name: count(votes, several=len(answers) > 1) for name, votes in by_question.items()}
    return Result(key.arms, key.scale, len(key.left), len(answers), counts, notes)


def _vote(key: Key, pair: str, answers: Iterable[str]) -> Vote:
    """The combined verdict of one voter's answers about a pair."""
    for_left = int(np.sign(sum((answer == LEFT) - (answer == RIGHT) for answer in answers)))
    return Vote(pair, for_left if key.left[pair] == key.arms[0] else -for_left, for_left)


def count(votes: Sequence[Vote], *, several: bool) -> Count:
    """Count the votes on one question; `several`: they come from more than one voter."""
    by_pair: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for vote in votes:
        by_pair[vote.pair][vote.for_a] += 1
    total = sum(by_pair.values(), Counter())
    wins, losses, ties = total[1], total[-1], total[0]
    decided = wins + losses
    if not decided:
        return Count(wins, losses, ties, None, None, None, None, None)
    ahead = Counter(int(np.sign(counts[1] - counts[-1])) for counts in by_pair.values())
    won = np.array([counts[1] for counts in by_pair.values()])
    lost = np.array([counts[-1] for counts in by_pair.values()])
    return Count(
        wins,
        losses,
        ties,
        share=wins / decided,
        wilson=_interval(binomtest(wins, decided).proportion_ci(method="wilson")),
        over_pairs=over_pairs(won, lost) if several else None,
        sign_test=sign_test(ahead[1], ahead[-1]),
        left=sum(vote.for_left > 0 for vote in votes) / decided,
    )


def sign_test(ahead: int, behind: int) -> float:
    """Two-sided p-value of these numbers of pairs for A and for B if neither is preferred."""
    return float(binomtest(ahead, ahead + behind).pvalue) if ahead + behind else 1.0


def over_pairs(won: np.ndarray, lost: np.ndarray) -> Interval | None:
    """95 % interval of the share of A by bootstrap over pairs; None if fewer than two decide.

    won, lost  (pairs,) votes for A and for B.
    """
    decisive = won + lost > 0
    if decisive.sum() < 2:
        return None
    result = bootstrap(
        (won[decisive], lost[decisive]),
        lambda won, lost, axis: won.sum(axis) / (won + lost).sum(axis),
        paired=True,
        batch=1000,
        method="percentile",
        rng=0,
    )
    return _interval(result.confidence_interval)


def _interval(bounds: Any) -> Interval:
    return float(bounds.low), float(bounds.high)


def markdown(result: Result) -> str:
    """The result as a table with its notes."""
    a, b = result.arms
    intervals = ["Wilson 95 %", "over pairs 95 %"]
    head = ["question", a, b, "no difference", f"share of {a}", *intervals, "sign test", "left chosen"]
    rows = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name, count in result.questions.items():
        figures = [_percent(count.share), _range(count.wilson), _range(count.over_pairs)]
        test = "–" if count.sign_test is None else f"p = {count.sign_test:.2g}"
        counts = map(str, (count.wins, count.losses, count.ties))
        rows.append([QUESTIONS.get(name, name), *counts, *figures, test, _percent(count.left)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    summary = f"{a} against {b} at γ {result.scale:g}; {result.pairs} pairs, voters: {result.voters}."
    if result.voters > 1:
        summary += " Several voters judged the same pairs: use the interval over pairs."
    return "\n".join([summary, "", table, *(f"\nNote: {note}." for note in result.notes)]) + "\n"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _range(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation votes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("key", type=Path, metavar="KEY", help="PAGE.key.json")
    parser.add_argument("votes", type=Path, nargs="+", metavar="VOTES", help="the voters' files")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="write preference.md and preference.json there")
    options = parser.parse_args(arguments)
    try:
        result = count_votes(Key.read(options.key), options.votes)
    except ScfgError as error:
        parser.error(str(error))
    table = markdown(result)
    print(table, end="")
    if options.to is not None:
        options.to.mkdir(parents=True, exist_ok=True)
        (options.to / "preference.md").write_text(table, encoding="utf-8")
        content = json.dumps(asdict(result), indent=1) + "\n"
        (options.to / "preference.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
