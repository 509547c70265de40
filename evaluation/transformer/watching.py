"""One evaluation of a transformer with both prompts, seen by S-CFG: a host of a few lines.

Rows are [empty prompt; prompt]. All prompts of a batch have as many words, so that a column has one role.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from demo.joint.model import CELLS, TransformerModel
from demo.words import PAD, START
from scfg_core import Collection, Grid, Prompt, Run, Settings
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.prompt import Role
from scfg_core.run.noise import NoiseLevel
from scfg_core.run.predictions import Placement, Predictions
from scfg_core.run.session import Session

GRID = Grid(CELLS // 2, CELLS // 2)


@dataclass(frozen=True)
class Seen:
    """What one evaluation of B images left: predictions (B, 16, 32, 32), and the calls of every block, in order."""

    predictions: Predictions
    prompts: dict[str, Prompt]
    blocks: list[list[LayerCall]]


@torch.no_grad()
def evaluate(model: TransformerModel, x: Tensor, sigma: float, ids: Tensor, scale: float) -> Seen:
    """Both predictions of x (B, 16, 32, 32) at σ, for captions ids (B, 24) of one length and the empty prompt.

    The network computes in its weights' dtype; predictions are float32.
    """
    empty = model.tokenizer([""] * len(ids)).to(ids)
    both = torch.cat([empty, ids])
    dtype = next(model.transformer.parameters()).dtype
    context = model.context(both).to(dtype)
    with _watched(model, context.shape[1], len(ids)) as blocks:
        out = model.velocity(torch.cat([x, x]).to(dtype), x.new_full((2 * len(x),), sigma), context).float()
    uncond, cond = out.chunk(2)
    predictions = Predictions(
        x=x,
        cond=cond,
        uncond=uncond,
        noise=NoiseLevel(1 - sigma, sigma, "flow_prediction"),
        sigma=sigma,
        guidance_scale=scale,
    )
    prompts = {"uncond": prompt_of(empty, context.shape[1]), "cond": prompt_of(ids, context.shape[1])}
    return Seen(predictions, prompts, blocks)


def segmentation(seen: Seen, blocks: Sequence[int], settings: Settings) -> tuple[Tensor, Tensor]:
    """Labels and foreground (B, 16, 16) that the session finds in these blocks of an evaluation."""
    run = fresh_run()
    session = Session(settings, Collection(), run)
    session.begin(seen.prompts)
    for index in blocks:
        for call in seen.blocks[index]:
            session.observe(call)
    session.ratio(seen.predictions, [Placement("cond")], [Placement("uncond")])
    session.end_evaluation()
    run.close()
    return run.evaluations[-1].labels, run.evaluations[-1].foreground


def prompt_of(ids: Tensor, columns: int) -> Prompt:
    """The prompt of captions ids (B, 24) of one length: START, words, and padding that owns nothing.

    Its branch is that of a caption where there is a word. Raises `ValueError` for captions of several lengths.
    """
    words = ids > PAD
    if not (words == words[:1]).all():
        raise ValueError("expected captions of one length, got several: see by_length")
    roles: list[Role] = ["null"] * columns
    for column, token in enumerate(ids[0].tolist()):
        if token == START:
            roles[column] = "start"
        elif token > PAD:
            roles[column] = "word"
    return Prompt("cond" if words.any() else "uncond", tuple(roles))


def by_length(ids: Tensor, most: int) -> Iterator[Tensor]:
    """Rows of ids (N, 24) with equally many words, at most `most` at a time."""
    lengths = (ids > PAD).sum(dim=1)
    for length in lengths.unique():
        yield from (lengths == length).nonzero().flatten().split(most)


@contextmanager
def _watched(model: TransformerModel, columns: int, images: int) -> Iterator[list[list[LayerCall]]]:
    """Fills a list with the calls of every block while the model runs; afterwards nothing is left on the model."""
    rows = (Rows("uncond", slice(0, images)), Rows("cond", slice(images, 2 * images)))
    attentions = model.transformer.attentions()
    calls: list[list[LayerCall]] = [[] for _ in attentions]
    handles = []
    for index, block in enumerate(attentions):
        for attention, layout in zip(block, layouts(len(block), columns), strict=True):

            def observe(_: object, given: tuple[Tensor, ...], index: int = index, layout: Layout = layout) -> None:
                q, k = given[:2]
                image = q[:, :, -GRID.area :]
                calls[index].append(LayerCall(str(index), image, k, rows, GRID, layout))

            handles.append(attention.register_forward_pre_hook(observe))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def layouts(attentions: int, columns: int) -> Sequence[Layout]:
    """Keys of the attentions of a block: of one, text and patches; of two, the patches, then the text."""
    if attentions == 1:
        return (Layout.joint(columns, GRID),)
    return (Layout.self_attention(GRID), Layout.cross_attention(columns))


def fresh_run() -> Run:
    return Run(prompts=[], layers=())
