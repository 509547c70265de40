"""Read the files that voters download, and check them against the key of their page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .key import LEFT, QUESTIONS, RIGHT, SAME, Key, PreferenceError, read_json


def read_votes(key: Key, paths: Sequence[Path]) -> tuple[list[dict[str, dict[str, str]]], list[str]]:
    """The answers of every voter, by pair and question, and notes on files that are not counted.

    If a voter sent several files, the newest counts. Raises `PreferenceError` for votes on another page, and if
    nobody has answered anything.
    """
    newest: dict[str, dict[str, Any]] = {}
    notes = []
    for path in paths:
        votes = _checked(key, path)
        earlier = newest.setdefault(votes["voter"], votes)
        if earlier is not votes:
            notes.append(f"{path.name}: voter {votes['voter']} again; the newest file counts")
            newest[votes["voter"]] = max(earlier, votes, key=lambda file: file["saved"])
    answers = [votes["answers"] for votes in newest.values() if votes["answers"]]
    notes += [f"voter {voter} has answered nothing" for voter, votes in newest.items() if not votes["answers"]]
    if not answers:
        raise PreferenceError("expected at least one answer, got none: give the files that voters downloaded")
    return answers, notes


def _checked(key: Key, path: Path) -> dict[str, Any]:
    votes = read_json(path)
    is_votes = isinstance(votes, dict) and all(
        isinstance(votes.get(name), kind)
        for name, kind in {"study": str, "voter": str, "saved": str, "answers": dict}.items()
    )
    if not is_votes:
        raise PreferenceError(f"expected votes in {path}, got something else: give files that the page saved")
    if votes["study"] != key.study:
        raise PreferenceError(
            f"expected votes of page {key.study} in {path}, got {votes['study']}: "
            "count them with the key of that page"
        )
    for pair, answers in votes["answers"].items():
        if pair not in key.left:
            raise PreferenceError(
                f"expected pairs of page {key.study} in {path}, got {pair!r}: "
                "the file was changed, ask for it again"
            )
        if not _are_answers(answers):
            raise PreferenceError(
                f"expected answers of the page in {path}, got {answers}: the file was changed, ask for it again"
            )
    return votes


def _are_answers(answers: Any) -> bool:
    return isinstance(answers, dict) and all(
        question in QUESTIONS and answer in (LEFT, SAME, RIGHT) for question, answer in answers.items()
    )
