"""The demo's sheets: CFG beside S-CFG, the segmentation over the steps, the norms of the regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from views.canvas import Picture, below, beside, enlarge, frame, margin, padded, paper, titled
from views.curves import curves
from views.legend import legend
from views.owners import owners_of, shares_of
from views.palette import MASK
from views.scale_map import colour_bar, heat, span_of
from views.segmentation import label_picture, spread_out
from views.text import FAINT, height_of, width_of, write

from .model import DemoModel
from .sample import Sampled, to_pixels, watch_again
from .wavelet import decode

TILE = 192
SMALL_TILE = 128
"""Whole multiples of 64: an image is enlarged by whole pixels."""
SHOWN_STEPS = 7
POWERS = {"C only": (1.0,), "R = 1": (0.0, 1.0), "R = 4": (0.0, 0.25, 0.25, 0.25, 0.25)}


@dataclass(frozen=True)
class Samples:
    """One prompt sampled three times from the same noise: by CFG, by S-CFG, and by CFG at S-CFG's mean scale."""

    prompt: str
    cfg: Sampled
    scfg: Sampled
    matched: Sampled

    @property
    def mean_guidance(self) -> float:
        """Mean of γ·r over image and steps: the scale of `matched`."""
        assert self.scfg.run is not None
        return self.scfg.run.mean_guidance()


def comparison(prompts: list[Samples]) -> Picture:
    """CFG | CFG at S-CFG's mean scale | S-CFG | its regions with their legend | its scales; one row per prompt.

    Regions and scales are those of the last step.
    """
    keys = [_legend_of(samples) for samples in prompts]
    widest = max(key.shape[1] for key in keys)
    rows = [_comparison_row(samples, padded(key, 0, widest)) for samples, key in zip(prompts, keys, strict=True)]
    return margin(below(rows, gap=24))


def _legend_of(samples: Samples) -> Picture:
    assert samples.scfg.run is not None
    owners = owners_of(samples.scfg.run)
    return legend(shares_of(samples.scfg.run.evaluations[-1:], owners), most_rows=8)


def _comparison_row(samples: Samples, key: Picture) -> Picture:
    assert samples.scfg.run is not None
    last = samples.scfg.run.evaluations[-1]
    cfg, matched, guided = (
        to_pixels(sampled.images[0]) for sampled in (samples.cfg, samples.matched, samples.scfg)
    )
    labels, ratio = last.labels[0].numpy(), last.ratio[0].numpy()
    regions = label_picture(labels, owners_of(samples.scfg.run), TILE, TILE, base=guided, opacity=0.75)
    span = span_of(ratio)
    row = beside(
        [
            titled(frame(enlarge(cfg, TILE, TILE)), f"CFG {last.guidance_scale:g}"),
            titled(frame(enlarge(matched, TILE, TILE)), f"CFG {samples.mean_guidance:.2f}, the same mean"),
            titled(frame(enlarge(guided, TILE, TILE)), f"S-CFG {last.guidance_scale:g}"),
            titled(frame(regions), "which word owns what"),
            below([paper(2, 1), key], gap=0),
            titled(frame(heat(ratio, span, TILE, TILE)), "guidance scale"),
            below([paper(height_of() + 4, 1), colour_bar(TILE + 2, last.guidance_scale, span)], gap=0),
        ]
    )
    return titled(row, samples.prompt, size=18)


def steps_sheet(model: DemoModel, samples: Samples) -> Picture:
    """The paper's Figure 3: the predicted image, the label maps of three propagations, and the foreground."""
    run = samples.scfg.run
    assert run is not None
    owners = owners_of(run)
    chosen = spread_out(len(samples.scfg.timesteps), SHOWN_STEPS)
    records = {
        name: watch_again(model, samples.prompt, samples.scfg, chosen, weights) for name, weights in POWERS.items()
    }

    predicted = [to_pixels(decode(samples.scfg.clean[step])[0]) for step in chosen]
    rows = {"predicted": [frame(enlarge(image, SMALL_TILE, SMALL_TILE)) for image in predicted]}
    for name, record in records.items():
        maps = [evaluation.labels[0].numpy() for evaluation in record.evaluations]
        rows[name] = [frame(label_picture(labels, owners, SMALL_TILE, SMALL_TILE)) for labels in maps]
    foregrounds = [evaluation.foreground[0].numpy() for evaluation in records["R = 4"].evaluations]
    rows["foreground"] = [frame(_mask(foreground)) for foreground in foregrounds]
    side = max(width_of(name) for name in rows)
    lines = [_row(name, pictures, side) for name, pictures in rows.items()]
    heads = _heads([f"step {step + 1}" for step in chosen], side)
    shown = [evaluation for record in records.values() for evaluation in record.evaluations]
    key = legend(shares_of(shown, owners), most_rows=len(owners), scales=False)
    return margin(
        titled(beside([below([heads, *lines], gap=6), below([paper(20, 1), key], gap=0)]), samples.prompt)
    )


def _mask(foreground: np.ndarray) -> Picture:
    colours = np.array([(70, 70, 70), MASK], dtype=np.uint8)
    return enlarge(colours[foreground.astype(int)], SMALL_TILE, SMALL_TILE)


def _row(name: str, pictures: list[Picture], side: int) -> Picture:
    label = paper(pictures[0].shape[0], side)
    write(label, side, pictures[0].shape[0] / 2, name, anchor="rm")
    return beside([label, *pictures], gap=6)


def _heads(names: list[str], side: int) -> Picture:
    heads = []
    for name in names:
        head = paper(height_of(), SMALL_TILE + 2)
        write(head, (SMALL_TILE + 2) / 2, 0, name, colour=FAINT, anchor="ma")
        heads.append(head)
    return beside([paper(1, side), *heads], gap=6)


def norms(samples: Samples) -> Picture:
    """The paper's Figure 1 for one prompt."""
    assert samples.scfg.run is not None
    return titled(curves(samples.scfg.run), f"  {samples.prompt}")
