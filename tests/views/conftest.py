"""A synthetic run: two images, a 4×6 grid, a prompt with a word of two tokens, three evaluations."""

import pytest
import torch

from scfg_core import Prompt
from scfg_core.run.evaluation import Evaluation
from scfg_core.run.record import Run

TEXTS = ("<start>", "astro", "astro", "<b>", "<end>", "<pad>", "<pad>")
WORDS = (-1, 0, 0, 1, -1, -1, -1)


def evaluation(index: int, labels: torch.Tensor, ratio: torch.Tensor) -> Evaluation:
    norm = torch.linspace(1, 2, labels[0].numel()).reshape_as(labels[0]).expand_as(labels) / (index + 1)
    return Evaluation(
        index=index,
        sigma=float(3 - index),
        guidance_scale=5.0,
        labels=labels.to(torch.int16),
        foreground=labels > 0,
        classifier=norm,
        rescaled=norm * ratio,
        diffusion=norm + 1,
        ratio=ratio,
    )


@pytest.fixture
def run() -> Run:
    labels = torch.randint(0, 7, (2, 4, 6), generator=torch.Generator().manual_seed(0))
    labels[0, :2] = 1
    labels[0, 0, :2] = 2
    made = Run(prompts=[Prompt.plain("cond", len(TEXTS), (0,), TEXTS, WORDS)], schedule=(3.0, 2.0, 1.0, 0.0))
    for index in range(3):
        made.add(evaluation(index, labels.roll(index, 2), 1 + 0.5 * (labels % 2 - 0.5).float()))
    made.close()
    return made
