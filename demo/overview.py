"""`python -m demo.overview`: S-CFG in one picture, from a real run of the demo model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scfg_core import Settings
from views.canvas import Picture, below, beside, enlarge, frame, margin, paper, titled
from views.curves import RegionNorms, region_norms
from views.owners import Owner, owners_of, shares_of
from views.scale_map import heat, span_of
from views.segmentation import label_picture
from views.text import FAINT, height_of, width_of, write

from .model import load_model
from .sample import Sampled, sample, starting_noise, to_pixels

PROMPT = "a red house on snow at night"
"""Of four that were tried at seed 0, the one whose regions are easiest to read."""
TILE = 192
HEAD = 18
BAR_HEIGHT = 18
SMALLEST_AREA = 0.05
"""Regions below this part of the image are left out: one look must be enough."""


def overview(cfg: Sampled, scfg: Sampled) -> Picture:
    """CFG → which word owns what → a scale for each → S-CFG; under both how strongly each region is guided.

    Both runs must be recorded: CFG as S-CFG of strength 0.
    """
    run, plain = scfg.run, cfg.run
    assert run is not None and plain is not None
    last = run.evaluations[-1]
    before_image, after_image = (enlarge(to_pixels(sampled.images[0]), TILE, TILE) for sampled in (cfg, scfg))
    owners = owners_of(run)
    norms = region_norms(run, smallest_area=SMALLEST_AREA)
    labels, ratio = last.labels[0].numpy(), last.ratio[0].numpy()
    scales = {share.owner.text: share.scale for share in shares_of([last], norms.owners)}

    regions = label_picture(labels, owners, TILE, TILE, base=after_image, opacity=0.8)
    write_into(regions, labels, {owner: owner.text for owner in norms.owners})
    map_of_scales = heat(ratio, span_of(ratio), TILE, TILE)
    write_into(map_of_scales, labels, {owner: f"{scales[owner.text]:.1f}" for owner in norms.owners})

    before, after = _strengths(region_norms(plain, smallest_area=SMALLEST_AREA)), _strengths(norms)
    top = max(*before.values(), *after.values())
    said = paper(4 * height_of(), 2 * TILE + ARROW_WIDTH + 4)
    for line, text in enumerate(("read from the model's attention at every step:", "no training, no second model")):
        write(said, said.shape[1] / 2, (line + 0.4) * (height_of() + 4), text, colour=FAINT, anchor="ma")
    explained = [_tile(regions, "which word owns what"), _arrow(), _tile(map_of_scales, "a scale for every region")]
    middle = below([beside(explained, 0), said])
    return margin(
        beside(
            [
                below([_tile(before_image, f"CFG: one scale, {last.guidance_scale:g}"), _bars(before, top)]),
                _arrow(),
                middle,
                _arrow(),
                below([_tile(after_image, "S-CFG"), _bars(after, top)]),
            ],
            0,
        )
    )


ARROW_WIDTH = 44


def _tile(picture: Picture, title: str) -> Picture:
    return titled(frame(picture), title, size=HEAD)


def _arrow() -> Picture:
    """An arrow at the height of the middle of a tile."""
    picture = paper(TILE + height_of(HEAD), ARROW_WIDTH)
    y = height_of(HEAD) + 4 + TILE // 2
    picture[y - 1 : y + 2, 8 : ARROW_WIDTH - 14] = FAINT
    for step in range(9):
        picture[y - step : y + step + 1, ARROW_WIDTH - 9 - step] = FAINT
    return picture


def write_into(picture: Picture, labels: np.ndarray, texts: dict[Owner, str]) -> None:
    """A word in the middle of every region of a square picture, on paper of its own."""
    side = picture.shape[0]
    for owner, text in texts.items():
        y, x = _inside(owner.mask(labels))
        y, x = (y + 0.5) * side / labels.shape[0], (x + 0.5) * side / labels.shape[1]
        half = width_of(text) / 2 + 5
        x = min(max(x, half + 4), side - half - 4)
        top = round(y - height_of() / 2)
        picture[top - 1 : top + height_of() + 1, round(x - half) : round(x + half)] = 255
        write(picture, x, y, text, anchor="mm")


def _inside(mask: np.ndarray) -> tuple[int, int]:
    """The cell of a region that is farthest from its border."""
    inner = np.pad(mask, 1)
    depth = np.zeros(mask.shape, dtype=int)
    while inner.any():
        depth += inner[1:-1, 1:-1]
        shrunk = inner.copy()
        for axis in (0, 1):
            for step in (-1, 1):
                shrunk &= np.roll(inner, step, axis)
        inner = shrunk
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column)


def _strengths(norms: RegionNorms) -> dict[Owner, float]:
    """How strongly each region is guided, mean over the steps."""
    return dict(zip(norms.owners, norms.rescaled.mean(axis=0).tolist(), strict=True))


def _bars(strengths: dict[Owner, float], top: float) -> Picture:
    """A bar for every region; one of length `top` fills the width."""
    picture = paper(len(strengths) * (BAR_HEIGHT + 6), TILE + 2)
    left = max(width_of(owner.text) for owner in strengths) + 8
    for index, (owner, length) in enumerate(strengths.items()):
        y = index * (BAR_HEIGHT + 6)
        write(picture, left - 8, y + BAR_HEIGHT / 2, owner.text, anchor="rm")
        picture[y : y + BAR_HEIGHT, left : left + round(length / top * (TILE - left))] = owner.colour
    return titled(picture, "strength of guidance", colour=FAINT)


def main(arguments: list[str] | None = None) -> None:
    """Sample the pair and write the picture."""
    parser = argparse.ArgumentParser(prog="python -m demo.overview", description=__doc__)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("out/overview.png"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, noise = load_model(), starting_noise([options.seed])
    common = {"scale": options.scale, "steps": options.steps, "sampler": "ddim"}
    settings = Settings.preset("default")
    cfg = sample(model, [options.prompt], noise, settings=replace(settings, strength=0.0), **common)
    scfg = sample(model, [options.prompt], noise, settings=settings, **common)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(overview(cfg, scfg)).save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
