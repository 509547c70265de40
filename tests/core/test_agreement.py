"""How far two runs agree: shares of patches, and what cannot be compared."""

import pytest
import torch

from scfg_core import Prompt
from scfg_core.errors import ShapeError
from scfg_core.run.agreement import agreement
from scfg_core.run.evaluation import Evaluation
from scfg_core.run.record import Fingerprint, Run

NORM = torch.ones(1, 2, 4)
WORDS = [Prompt.plain("cond", 2, texts=("<start>", "cat"), words=(-1, 0))]


def run(*indices: int, changed: int = 0, width: int = 4, prompts=(), latent: float | None = None) -> Run:
    """A closed run; the first `changed` of its 2 × width patches have another label and another foreground."""
    labels = torch.zeros(1, 2 * width, dtype=torch.int16)
    labels[0, :changed] = 1
    labels = labels.unflatten(1, (2, width))
    made = Run(prompts=list(prompts))
    for index in indices:
        made.add(Evaluation(index, 1.0, 5.0, labels, labels > 0, NORM, NORM, NORM, NORM))
    made.close()
    if latent is not None:
        made.fingerprint = Fingerprint.of(torch.full((1, 4, 2, 4), latent))
    return made


def test_shares_are_those_of_equal_patches():
    found = agreement(run(0, 1), run(0, 1, changed=2))
    assert (found.labels, found.foreground, found.evaluations) == (0.75, 0.75, 2)
    assert str(found) == "labels 0.750, foreground 0.750 over 2 evaluations"


def test_only_evaluations_that_both_have_are_compared():
    assert agreement(run(0, 1, 2, 3), run(1, 3, 5)).evaluations == 2


@pytest.mark.parametrize(("other", "said"), [(1.0, ""), (2.0, " of different images")])
def test_runs_that_returned_other_latents_are_told(other, said):
    found = agreement(run(0, latent=1.0), run(0, latent=other))
    assert str(found) == "labels 1.000, foreground 1.000 over 1 evaluation" + said


def test_runs_of_other_sizes_cannot_be_compared():
    with pytest.raises(ShapeError, match="the same size"):
        agreement(run(0), run(0, width=6))


def test_runs_of_other_prompts_cannot_be_compared():
    other = [Prompt.plain("cond", 2, texts=("<start>", "dog"), words=(-1, 0))]
    with pytest.raises(ShapeError, match="the same prompt"):
        agreement(run(0, prompts=WORDS), run(0, prompts=other))


def test_words_that_only_one_run_knows_are_no_hindrance():
    assert agreement(run(0, prompts=WORDS), run(0, prompts=[Prompt.plain("cond", 2)])).labels == 1
