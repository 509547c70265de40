"""`python -m demo.artwork`: the registry's icon and banner, from a real run of the demo model."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from scfg_core import Settings
from views.canvas import Picture, below, beside, enlarge, frame, paper
from views.owners import owners_of, shares_of
from views.scale_map import heat, span_of
from views.segmentation import label_picture
from views.text import FAINT, INK, height_of, width_of, write

from .model import load_model
from .overview import SMALLEST_AREA, write_into
from .sample import Sampled, sample, starting_noise, to_pixels

PROMPT = "a yellow tent and a blue house on grass at noon"
"""Of three that were tried at seed 0, the one that is easiest to read when it is small."""

ICON = 384
ROUNDING = 56
BANNER = 1260, 540
"""Width and height: 21:9, as the registry wants it."""

TILE = 270
WORDS = ("Every region of the image", "gets a guidance scale", "of its own.")
CAPTIONS = ("an image", "which word owns what", "a scale for every region")


def icon(run: Sampled) -> Image.Image:
    """The image and, beyond a diagonal, its regions; ICON × ICON pixels with round corners."""
    image, regions, _ = _tiles(run, ICON)
    rows, columns = np.indices((ICON, ICON))
    cut = columns + 0.35 * rows - 0.68 * ICON
    picture = np.where((cut > 0)[..., None], regions, image)
    picture[np.abs(cut) < 4] = 255
    mask = Image.new("L", (4 * ICON, 4 * ICON))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * ICON - 1, 4 * ICON - 1), 4 * ROUNDING, fill=255)
    rounded = Image.fromarray(picture.astype(np.uint8)).convert("RGBA")
    rounded.putalpha(mask.resize((ICON, ICON), Image.Resampling.LANCZOS))
    return rounded


def banner(run: Sampled) -> Image.Image:
    """The name, what it does, and three tiles: the image, its regions with their words, its guidance scales."""
    assert run.run is not None
    image, regions, scales = _tiles(run, TILE)
    labels, owners = run.run.evaluations[-1].labels[0].numpy(), owners_of(run.run)
    shares = [share for share in shares_of(run.run.evaluations[-1:], owners) if share.area >= SMALLEST_AREA]
    write_into(regions, labels, {share.owner: share.owner.text for share in shares})
    write_into(scales, labels, {share.owner: f"{share.scale:.1f}" for share in shares})
    tiles = beside([_captioned(*pair) for pair in zip((image, regions, scales), CAPTIONS, strict=True)], 16)

    width, height = BANNER
    picture = paper(height, width)
    top = (height - tiles.shape[0]) // 2
    picture[top : top + tiles.shape[0], width - tiles.shape[1] - 44 : width - 44] = tiles
    y = (height - height_of(84) - 3 * (height_of(24) + 6)) // 2
    write(picture, 44, y, "S-CFG", size=84)
    for line, text in enumerate(WORDS):
        write(picture, 48, y + height_of(84) + 8 + line * (height_of(24) + 6), text, size=24, colour=FAINT)
    return Image.fromarray(picture)


def _tiles(sampled: Sampled, side: int) -> tuple[Picture, Picture, Picture]:
    """The image, its regions over it, and its guidance scales, side × side pixels."""
    assert sampled.run is not None
    last = sampled.run.evaluations[-1]
    image, ratio = enlarge(to_pixels(sampled.images[0]), side, side), last.ratio[0].numpy()
    labels = last.labels[0].numpy()
    regions = label_picture(labels, owners_of(sampled.run), side, side, base=image, opacity=0.8)
    return image, regions, heat(ratio, span_of(ratio), side, side)


def _captioned(tile: Picture, text: str, size: int = 20) -> Picture:
    framed = frame(tile)
    caption = paper(height_of(size) + 4, framed.shape[1])
    write(caption, (framed.shape[1] - width_of(text, size)) / 2, 2, text, size=size, colour=INK)
    return below([framed, caption], 6)


def main(arguments: list[str] | None = None) -> None:
    """Sample once and write both."""
    parser = argparse.ArgumentParser(prog="python -m demo.artwork", description=__doc__)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of icon.png and banner.png")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    noise, settings = starting_noise([options.seed]), Settings.preset("default")
    run = sample(
        load_model(), [options.prompt], noise, settings=settings, scale=3.0, steps=options.steps, sampler="ddim"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    for name, picture in {"icon": icon(run), "banner": banner(run)}.items():
        picture.save(options.out / f"{name}.png", optimize=True)
        print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
