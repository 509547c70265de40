"""How far two runs over the same noise agree about which word owns which patch."""

from dataclasses import dataclass

from ..errors import ShapeError
from .evaluation import Evaluation
from .record import Run


@dataclass(frozen=True)
class Agreement:
    """Shares 0…1 of patches with equal labels, and with equal foreground, over `evaluations` evaluations.

    same_latent: whether both runs returned the same latent, so that all that differs comes from how maps were
    collected; None where the host does not return latents.
    """

    labels: float
    foreground: float
    evaluations: int
    same_latent: bool | None = None

    def __str__(self) -> str:
        count = "1 evaluation" if self.evaluations == 1 else f"{self.evaluations} evaluations"
        shares = f"labels {self.labels:.3f}, foreground {self.foreground:.3f} over {count}"
        return shares + (" of different images" if self.same_latent is False else "")


def agreement(one: Run, other: Run) -> Agreement:
    """Compare the evaluations that two closed runs have in common, all images: same sampler, seed, prompt and size.

    Runs that only observe over the same noise see the same latents, so all that differs comes from how maps were
    collected: which layers, how often, with how many powers. Raises `ShapeError` where nothing can be compared, or
    where both prompts' words are known and differ.
    """
    words = [
        [prompt.words_with_labels() for prompt in run.prompts if prompt.words_with_labels()] for run in (one, other)
    ]
    if all(words) and words[0] != words[1]:
        raise ShapeError("expected two runs of the same prompt, got other words: sample the same prompt in both")
    there = {evaluation.index: evaluation for evaluation in other.evaluations}
    pairs = [(here, there[here.index]) for here in one.evaluations if here.index in there]
    pairs = [(a, b) for a, b in pairs if a.labels.shape == b.labels.shape]
    if not pairs:
        raise ShapeError(
            "expected two runs of the same size, got no evaluations in common: "
            "sample both with the same prompt, seed and size"
        )
    labels, foreground = zip(*(_shares(a, b) for a, b in pairs), strict=True)
    same = one.fingerprint and other.fingerprint and one.fingerprint.matches(other.fingerprint)
    return Agreement(sum(labels) / len(pairs), sum(foreground) / len(pairs), len(pairs), same)


def _shares(one: Evaluation, other: Evaluation) -> tuple[float, float]:
    return (
        float((one.labels == other.labels).float().mean()),
        float((one.foreground == other.foreground).float().mean()),
    )
