"""A page that shows pairs of pictures blind, side by side, and collects votes.

OUT is the folder of an experiment: captions.json and images/ARM/γ/000000.png. The page is a folder of static
files that any browser opens without a network; send it, or put it on any web server. Its pairs are the same for
every voter, A on the left in half of them, and come to each voter in another order. PAGE.key.json, beside the
folder, says which picture is whose: keep it from the voters.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from scfg_core import ScfgError

from .key import SIDES, Key, PreferenceError, read_json

TEMPLATE = Path(__file__).with_name("page")


def build_page(out: Path, arms: tuple[str, str], scale: float, pairs: int, seed: int, to: Path) -> Path:
    """Make the page and, beside it, its key, whose path is returned: pairs by two arms of the same captions and γ.

    out    the experiment's folder.
    arms   A and B.
    scale  γ.
    pairs  how many captions are shown: drawn at random from all that both arms have.
    seed   of that choice, of the sides and of the names; the same pictures and options give the same page.
    to     the page's folder; new or empty.

    Raises `PreferenceError` where pictures are missing or differ in size, or a page or key would be overwritten.
    """
    if arms[0] == arms[1]:
        raise PreferenceError(f"expected two arms, got {arms[0]} twice: compare it with another")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise PreferenceError(f"expected a new or empty folder, got {to}: delete it, or give another --to")
    key_file = to.with_name(f"{to.name}.key.json")
    if key_file.exists():
        raise PreferenceError(f"expected no key yet, got {key_file}: votes may need it, give another --to")
    captions = read_captions(out)
    drawn = [images_of(out, arm, scale) for arm in arms]
    both = sorted(drawn[0].keys() & drawn[1].keys() & set(range(len(captions))))
    if not 1 <= pairs <= len(both):
        raise PreferenceError(
            f"expected 1 to {len(both)} pairs, as both arms drew, got {pairs}: draw more, or ask for fewer --pairs"
        )
    chosen = Random(seed).sample(both, pairs)
    files = [(drawn[0][index], drawn[1][index]) for index in chosen]
    for pair in files:
        check_size(pair)
    source = fingerprint([captions[index] for index in chosen], files, arms, scale, seed)
    key = make_key(arms, scale, chosen, source)
    write_page(to, key, dict(zip(chosen, files, strict=True)), captions)
    key.write(key_file)
    return key_file


def read_captions(out: Path) -> list[str]:
    """The experiment's captions by index."""
    file = out / "captions.json"
    captions = read_json(file)
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise PreferenceError(f"expected a list of captions in {file}, got something else: give another OUT")
    return captions


def images_of(out: Path, arm: str, scale: float) -> dict[int, Path]:
    """An arm's pictures at this γ by index."""
    folder = out / "images" / arm / f"{scale:g}"
    found = {int(path.stem): path for path in folder.glob("*.png") if path.stem.isdecimal()}
    if not found:
        there = ", ".join(
            sorted(f"{cell.parent.name} at γ {cell.name}" for cell in folder.parent.parent.glob("*/*"))
        )
        raise PreferenceError(f"expected images of {arm} at γ {scale:g}, got {there or 'none'}: draw them first")
    return found


def check_size(pair: tuple[Path, Path]) -> None:
    """Voters would know pictures by their size. Raises `PreferenceError`."""
    sizes = []
    for path in pair:
        with Image.open(path) as picture:
            sizes.append(f"{picture.width}×{picture.height}")
    if sizes[0] != sizes[1]:
        raise PreferenceError(
            f"expected images of one size, got {' and '.join(sizes)} at {pair[0].name}: "
            "compare arms that draw the same size"
        )


def fingerprint(
    captions: list[str], files: list[tuple[Path, Path]], arms: tuple[str, str], scale: float, seed: int
) -> str:
    """Of all that a page depends on; without the pictures by arm nobody can compute the names and sides from it."""
    digest = hashlib.sha256(json.dumps([captions, arms, scale, seed]).encode())
    for path in (path for pair in files for path in pair):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def make_key(arms: tuple[str, str], scale: float, indices: list[int], source: str) -> Key:
    """Random names, and random sides of which half are A's."""
    rng = Random(source)
    study, *names = (f"{number:012x}" for number in rng.sample(range(16**12), len(indices) + 1))
    first = rng.getrandbits(1)
    sides = [arms[(first + place) % 2] for place in range(len(indices))]
    rng.shuffle(sides)
    return Key(study, arms, scale, dict(zip(names, sides, strict=True)), dict(zip(names, indices, strict=True)))


def write_page(to: Path, key: Key, files: dict[int, tuple[Path, Path]], captions: list[str]) -> None:
    """The page's folder: the template, the pictures, and pairs.js with names and captions only."""
    shutil.copytree(TEMPLATE, to, dirs_exist_ok=True)
    (to / "pictures").mkdir()
    for name, index in key.index.items():
        by_arm = dict(zip(key.arms, files[index], strict=True))
        left = key.left[name]
        for side, arm in zip(SIDES, (left, key.other(left)), strict=True):
            bare(by_arm[arm]).save(to / "pictures" / f"{name}-{side}.png")
    shown = [{"id": name, "caption": captions[index]} for name, index in key.index.items()]
    content = f"const STUDY = {json.dumps({'id': key.study, 'pairs': shown}, indent=1)}\n"
    (to / "pairs.js").write_text(content, encoding="utf-8")


def bare(path: Path) -> Image.Image:
    """A picture without anything else that its file says, such as the settings it was made with."""
    return Image.fromarray(np.asarray(Image.open(path).convert("RGB")))


def main(arguments: list[str] | None = None) -> None:
    """Make a page and its key."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation preference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the experiment's folder")
    parser.add_argument("--arms", nargs=2, required=True, metavar=("A", "B"), help="A's share will be counted")
    parser.add_argument("--scale", type=float, required=True, help="γ")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of captions, the sides and the names")
    parser.add_argument("--to", type=Path, required=True, metavar="PAGE", help="a new folder")
    options = parser.parse_args(arguments)
    try:
        key_file = build_page(
            options.out, tuple(options.arms), options.scale, options.pairs, options.seed, options.to
        )
    except ScfgError as error:
        parser.error(str(error))
    print(f"{options.to / 'index.html'}: {options.pairs} pairs. Keep {key_file} from the voters.")


if __name__ == "__main__":
    main()
