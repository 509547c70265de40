"""No evaluation waits for the device: the way of any device but a CPU, with tensors that have no values to read."""

from dataclasses import replace

import pytest
import torch

from scfg_core import Grid, Settings
from scfg_core.collector import Entry, Rows
from scfg_core.session import Collection, Moment, Placement, Session
from scfg_core.trace import Run

from .waits import Waits

BATCH, HEADS, WIDTH = 2, 2, 8
ROWS = [Rows("negative", slice(0, BATCH)), Rows("positive", slice(BATCH, 2 * BATCH))]
LATENT = (BATCH, 4, 8, 12)
LAYERS = {"deep": Grid(2, 3), "shallow": Grid(4, 6)}


def evaluation(session: Session, device: str, tokens: int, weight: torch.Tensor) -> torch.Tensor | None:
    """One evaluation as a host makes it, from random q and k."""
    starts = tuple(range(0, tokens, 77))
    entries = {"negative": Entry("uncond", tokens, starts), "positive": Entry("cond", tokens, starts)}
    if session.begin(entries):
        for layer, grid in LAYERS.items():
            q, k = (torch.randn(2 * BATCH, HEADS, grid.area, WIDTH, device=device) for _ in range(2))
            text = torch.randn(2 * BATCH, HEADS, tokens, WIDTH, device=device)
            session.collector.observe_self(layer, q, k, ROWS, grid)
            session.collector.observe_cross(layer, q, text, ROWS, grid)
    delta, empty = (torch.randn(LATENT, device=device) for _ in range(2))
    moment = Moment(torch.ones(BATCH, device=device), 7.0)
    cond, uncond = Placement("positive", None, weight), Placement("negative")
    return session.ratio(delta, empty, moment, [cond], [uncond], word_weights={1: 1.5})


SETTINGS = {
    **{name: Settings.preset(name) for name in ("default", "paper", "authors")},
    "argmax": replace(Settings(), foreground_rule="argmax"),
    "patch": replace(Settings(), regions="patch", mean_preserving=True),
    "watching": replace(Settings(), strength=0.0),
}


@pytest.mark.parametrize("budget", [256.0, 0.004])
@pytest.mark.parametrize("tokens", [77, 154])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_evaluation_never_waits(settings, tokens, budget):
    run = Run()
    session = Session(settings, Collection(budget_mib=budget, soft_maps=True), run)
    weight = torch.rand(*LATENT[2:], device="meta")
    with Waits() as waits:
        for _ in range(2):
            evaluation(session, "meta", tokens, weight)
    assert run.notes == []
    assert len(run.evaluations) == 2
    assert waits.found == []
