"""No evaluation waits for the device: the way of any device but a CPU, with tensors that have no values to read."""

from dataclasses import replace

import pytest
import torch

from scfg_core import Grid, Prompt, Settings
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.run.noise import NoiseLevel
from scfg_core.run.record import Run
from scfg_core.run.session import Collection, Placement, Predictions, Session

from .waits import Waits

BATCH, HEADS, WIDTH = 2, 2, 8
ROWS = [Rows("negative", slice(0, BATCH)), Rows("positive", slice(BATCH, 2 * BATCH))]
LATENT = (BATCH, 4, 8, 12)
LAYERS = {"deep": Grid(2, 3), "shallow": Grid(4, 6)}


def evaluation(session: Session, device: str, tokens: int, weight: torch.Tensor) -> torch.Tensor | None:
    """One evaluation as a host makes it, from random q and k."""
    starts = tuple(range(0, tokens, 77))
    prompts = {branch: Prompt.plain(branch, tokens, starts) for branch in ("uncond", "cond")}
    if session.begin({"negative": prompts["uncond"], "positive": prompts["cond"]}):
        for layer, grid in LAYERS.items():
            q, k = (torch.randn(2 * BATCH, HEADS, grid.area, WIDTH, device=device) for _ in range(2))
            text = torch.randn(2 * BATCH, HEADS, tokens, WIDTH, device=device)
            session.observe(LayerCall(layer, q, k, ROWS, grid, Layout.self_attention(grid)))
            session.observe(LayerCall(layer, q, text, ROWS, grid, Layout.cross_attention(tokens)))
    x, text, empty = (torch.randn(LATENT, device=device) for _ in range(3))
    sigma = torch.ones(BATCH, device=device)
    noise = NoiseLevel(1.0, sigma.reshape(-1, 1, 1, 1), "sample")
    predictions = Predictions(x, text, empty, noise, sigma, 7.0)
    return session.ratio(predictions, [Placement("positive", None, weight)], [Placement("negative")])


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
    session = Session(settings, Collection(budget_mib=budget, soft_maps=True), run, word_weights={1: 1.5})
    weight = torch.rand(*LATENT[2:], device="meta")
    with Waits() as waits:
        for _ in range(2):
            evaluation(session, "meta", tokens, weight)
    assert run.notes == []
    assert len(run.evaluations) == 2
    assert waits.found == []
