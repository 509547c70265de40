"""The demo's pictures: CFG beside S-CFG, the segmentation over the steps, the norms of the regions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from views.canvas import Picture, below, beside, enlarge, fit, frame, margin, padded, paper, titled
from views.curves import curves
from views.legend import legend
from views.owners import owners_of, shares_of
from views.palette import MASK
from views.scale_map import colour_bar, heat, span_of
from views.segmentation import label_picture, spread_out
from views.text import FAINT, height_of, width_of, write

from .model import DemoModel
from .sample import Sampled, to_pixels, watch_again

TILE = 224
SMALL_TILE = 112
SHOWN_STEPS = 7
POWERS = {"C only": (1.0,), "R = 1": (0.0, 1.0), "R = 4": (0.0, 0.25, 0.25, 0.25, 0.25)}


@dataclass(frozen=True)
class Pair:
    """One prompt sampled twice from the same noise."""

    prompt: str
    cfg: Sampled
    scfg: Sampled


def comparison(pairs: list[Pair]) -> Picture:
    """CFG | S-CFG | final segmentation with its legend | scale map of the last step, one row per prompt."""
    keys = [_legend_of(pair) for pair in pairs]
    widest = max(key.shape[1] for key in keys)
    rows = [_comparison_row(pair, padded(key, 0, widest)) for pair, key in zip(pairs, keys, strict=True)]
    return margin(below(rows, gap=24))


def _legend_of(pair: Pair) -> Picture:
    assert pair.scfg.run is not None
    owners = owners_of(pair.scfg.run)
    return legend(shares_of(pair.scfg.run.evaluations[-1:], owners), most_rows=8)


def _comparison_row(pair: Pair, key: Picture) -> Picture:
    assert pair.scfg.run is not None
    last = pair.scfg.run.evaluations[-1]
    cfg, guided = (to_pixels(sampled.images[0]) for sampled in (pair.cfg, pair.scfg))
    labels, ratio = last.labels[0].numpy(), last.ratio[0].numpy()
    regions = label_picture(labels, owners_of(pair.scfg.run), TILE, TILE, base=guided, opacity=0.75)
    span = span_of(ratio)
    row = beside(
        [
            titled(frame(fit(cfg, TILE, TILE)), "CFG"),
            titled(frame(fit(guided, TILE, TILE)), "S-CFG"),
            titled(frame(regions), "who owns what"),
            below([paper(2, 1), key], gap=0),
            titled(frame(heat(ratio, span, TILE, TILE)), "guidance scale"),
            below([paper(height_of() + 4, 1), colour_bar(TILE + 2, last.guidance_scale, span)], gap=0),
        ]
    )
    return titled(row, pair.prompt, size=18)


def steps_sheet(model: DemoModel, pair: Pair) -> Picture:
    """The paper's Figure 3: the predicted picture, the label maps of three propagations, and the foreground."""
    run = pair.scfg.run
    assert run is not None
    owners = owners_of(run)
    chosen = spread_out(len(pair.scfg.timesteps), SHOWN_STEPS)
    records = {
        name: watch_again(model, pair.prompt, pair.scfg, chosen, weights) for name, weights in POWERS.items()
    }

    predicted = [to_pixels(pair.scfg.clean[step][0]) for step in chosen]
    rows = {"predicted": [frame(fit(picture, SMALL_TILE, SMALL_TILE)) for picture in predicted]}
    for name, record in records.items():
        maps = [each.labels[0].numpy() for each in record.evaluations]
        rows[name] = [frame(label_picture(each, owners, SMALL_TILE, SMALL_TILE)) for each in maps]
    rows["foreground"] = [frame(_mask(each.foreground[0].numpy())) for each in records["R = 4"].evaluations]
    side = max(width_of(name) for name in rows)
    lines = [_row(name, pictures, side) for name, pictures in rows.items()]
    heads = _heads([f"step {step + 1}" for step in chosen], side)
    shown = [evaluation for record in records.values() for evaluation in record.evaluations]
    key = legend(shares_of(shown, owners), most_rows=len(owners), scales=False)
    return margin(titled(beside([below([heads, *lines], gap=6), below([paper(20, 1), key], gap=0)]), pair.prompt))


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


def norms(pair: Pair) -> Picture:
    """The paper's Figure 1 for one prompt."""
    assert pair.scfg.run is not None
    return titled(curves(pair.scfg.run), f"  {pair.prompt}")
