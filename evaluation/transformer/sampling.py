"""Euler sampling of a transformer by CFG or S-CFG, and the arms that are compared at the same mean scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from demo.joint.model import CELLS, CHANNELS, TransformerModel, to_images
from scfg_core import Collection, Run, Settings
from scfg_core.collect.layers import choose_by_depth
from scfg_core.method.guidance import rescale
from scfg_core.run.predictions import Placement
from scfg_core.run.session import Session

from ..strength import strengths
from .watching import by_length, evaluate, fresh_run


@dataclass(frozen=True)
class Arm:
    """One way of guiding.

    settings      of S-CFG; None = plain CFG.
    by_magnitude  whether regions come from the guidance alone (`scfg_core.run.magnitude`).
    matches       the arm whose mean ratio on the same image multiplies γ.
    """

    settings: Settings | None = None
    by_magnitude: bool = False
    matches: str | None = None


_DEFAULT = Settings.preset("default")
_EVEN = replace(_DEFAULT, mean_preserving=True)
ARMS = {
    "cfg": Arm(),
    "default": Arm(_DEFAULT),
    "matched": Arm(matches="default"),
    "attention": Arm(_EVEN),
    "patches": Arm(replace(_EVEN, regions="patch")),
    "magnitude": Arm(_DEFAULT, by_magnitude=True),
}
"""CFG; the default settings, and CFG at their mean scale; and, all at CFG's own mean scale, regions of the
attention, every patch its own, and patches of 4×4 cells without any attention. Every arm comes after what it
matches."""


def levels(steps: int) -> list[float]:
    """σ of every step, evenly from 1 to 0: steps + 1 numbers."""
    return [1 - step / steps for step in range(steps + 1)]


def starting_noise(seeds: Sequence[int]) -> Tensor:
    """Latents of noise (B, 16, 32, 32), one per seed, the same in any batch."""
    shape = (CHANNELS, CELLS, CELLS)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.no_grad()
def sample(
    model: TransformerModel,
    ids: Tensor,
    noise: Tensor,
    scales: Sequence[float],
    arm: Arm,
    *,
    blocks: Sequence[int] | None = None,
    steps: int = 20,
) -> tuple[Tensor, Run]:
    """Images (B, 3, 64, 64), range about −1…1, and the record of S-CFG, empty for plain CFG.

    ids     (B, 24), captions of one length; noise (B, 16, 32, 32); scales: γ of every image, alike with S-CFG.
    blocks  that are observed; None = those of `auto`.
    """
    names = [str(index) for index in range(len(model.transformer.attentions()))]
    chosen = [int(name) for name in choose_by_depth(names, "auto")] if blocks is None else blocks
    run = fresh_run()
    session = Session(arm.settings or Settings(), Collection(), run)
    gamma = rearrange(torch.tensor(scales), "b -> b 1 1 1")
    x, sigmas = noise, levels(steps)
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        seen = evaluate(model, x, sigma, ids, scales[0])
        uncond, cond = seen.predictions.uncond, seen.predictions.cond
        if arm.settings is not None:
            session.begin(seen.prompts)
            if arm.by_magnitude:
                ratio = session.ratio_by_magnitude(seen.predictions)
            else:
                for call in (call for index in chosen for call in seen.blocks[index]):
                    session.observe(call)
                ratio = session.ratio(seen.predictions, [Placement("cond")], [Placement("uncond")])
            session.end_evaluation()
            if ratio is None:
                raise RuntimeError(f"S-CFG found no ratio: {'; '.join(map(str, run.notes)) or 'no note'}")
            cond = rescale(cond, uncond, ratio)
        x = x + (following - sigma) * (uncond + gamma * (cond - uncond))
    run.close()
    return to_images(x), run


@dataclass
class Drawn:
    """Images (N, 3, 64, 64) of an arm, and the mean of γ·r of each (N,)."""

    images: Tensor
    scales: Tensor


def draw_arms(
    model: TransformerModel,
    ids: Tensor,
    seeds: Sequence[int],
    scale: float,
    arms: Sequence[str],
    *,
    steps: int = 20,
    batch: int = 32,
    blocks: Sequence[int] | None = None,
) -> dict[str, Drawn]:
    """The same captions ids (N, 24) from the same noise by every arm, at γ = `scale`."""
    noise = starting_noise(seeds)
    drawn = {name: Drawn(torch.zeros(len(ids), 3, 64, 64), torch.full((len(ids),), scale)) for name in arms}
    for name in arms:
        arm, result = ARMS[name], drawn[name]
        if arm.matches:
            result.scales = drawn[arm.matches].scales
        for rows in by_length(ids, batch):
            scales = result.scales[rows].tolist()
            images, run = sample(model, ids[rows], noise[rows], scales, arm, blocks=blocks, steps=steps)
            result.images[rows] = images
            if arm.settings is not None:
                result.scales[rows] = torch.tensor([record["mean_scale"] for record in strengths(run)])
    return drawn
