"""How far two runs over the same noise agree about which word owns which patch."""

from dataclasses import dataclass

from .errors import ShapeError, expect
from .trace import Evaluation, Run


@dataclass(frozen=True)
class Agreement:
    """Shares 0…1 of patches with equal labels, and with equal foreground, over `evaluations` evaluations."""

    labels: float
    foreground: float
    evaluations: int


def agreement(one: Run, other: Run) -> Agreement:
    """Compare the evaluations that two closed runs have in common: the same sampler, seed, prompt and size.

    Only-watching runs over the same noise see the same latents, so all that differs comes from how maps were
    collected: which layers, how often, how many powers. Raises `ShapeError` where nothing can be compared.
    """
    there = {evaluation.index: evaluation for evaluation in other.evaluations}
    pairs = [(each, there[each.index]) for each in one.evaluations if each.index in there]
    pairs = [(a, b) for a, b in pairs if a.labels.shape == b.labels.shape]
    expect(len(pairs) > 0, ShapeError, "two runs of the same size", "none in common", "sample both alike")
    labels, foreground = zip(*(_shares(a, b) for a, b in pairs), strict=True)
    return Agreement(sum(labels) / len(pairs), sum(foreground) / len(pairs), len(pairs))


def _shares(one: Evaluation, other: Evaluation) -> tuple[float, float]:
    return (
        float((one.labels == other.labels).float().mean()),
        float((one.foreground == other.foreground).float().mean()),
    )
