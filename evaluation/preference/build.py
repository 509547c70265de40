"""A page that shows pairs of images blind, side by side, and collects votes.

OUT is the folder of an experiment: captions.json and images/ARM/γ/000000.png. The page is a folder of static
files that any browser opens offline; send it, or put it on a web server. Every voter gets the same pairs, with A on
the left in half of them, in a random order. PAGE.key.json, beside the folder, says which arm made which image: do
not show it to voters.
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
    """Write the page and its key, and return the key's path. A pair has the same caption and γ in both arms.

    out    the experiment's folder.
    arms   A and B.
    scale  γ.
    pairs  number of captions, drawn at random from those that both arms have.
    seed   for the captions, sides and names; the same images and options give the same page.
    to     the page's folder; new or empty.

    Raises `PreferenceError` if images are missing or differ in size, or a page or key would be overwritten.
    """
    if arms[0] == arms[1]:
        raise PreferenceError(f"expected two arms, got {arms[0]} twice: compare it with another")
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise PreferenceError(f"expected a new or empty folder, got {to}: delete it, or give another --to")
    key_file = to.with_name(f"{to.name}.key.json")
    if key_file.exists():
        raise PreferenceError(f"expected no key yet, got {key_file}: votes may need it, so give another --to")
    captions = read_captions(out)
    files_by_arm = [find_images(out, arm, scale) for arm in arms]
    common = sorted(files_by_arm[0].keys() & files_by_arm[1].keys() & set(range(len(captions))))
    if not 1 <= pairs <= len(common):
        raise PreferenceError(
            f"expected 1 to {len(common)} pairs, for which both arms have images, got {pairs}: generate more, "
            "or ask for fewer --pairs"
        )
    chosen = Random(seed).sample(common, pairs)  # nosec B311
    files = [(files_by_arm[0][index], files_by_arm[1][index]) for index in chosen]
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


def find_images(out: Path, arm: str, scale: float) -> dict[int, Path]:
    """An arm's images at this γ, by caption index."""
    root = out / "images"
    files = {int(path.stem): path for path in (root / arm / f"{scale:g}").glob("*.png") if path.stem.isdecimal()}
    if not files:
        available = ", ".join(sorted(f"{path.parent.name} at γ {path.name}" for path in root.glob("*/*")))
        raise PreferenceError(
            f"expected images of {arm} at γ {scale:g}, got {available or 'none'}: generate them first"
        )
    return files


def check_size(pair: tuple[Path, Path]) -> None:
    """Voters would recognise an arm by its image size. Raises `PreferenceError`."""
    sizes = []
    for path in pair:
        with Image.open(path) as image:
            sizes.append(f"{image.width}×{image.height}")
    if sizes[0] != sizes[1]:
        raise PreferenceError(
            f"expected images of one size, got {' and '.join(sizes)} at {pair[0].name}: compare arms of equal size"
        )


def fingerprint(
    captions: list[str], files: list[tuple[Path, Path]], arms: tuple[str, str], scale: float, seed: int
) -> str:
    """Hash of everything a page depends on; names and sides can only be derived with the images of both arms."""
    digest = hashlib.sha256(json.dumps([captions, arms, scale, seed]).encode())
    for path in (path for pair in files for path in pair):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def make_key(arms: tuple[str, str], scale: float, indices: list[int], source: str) -> Key:
    """Random names and random sides, with A on the left in half of the pairs."""
    rng = Random(source)  # nosec B311
    study, *names = (f"{number:012x}" for number in rng.sample(range(16**12), len(indices) + 1))
    first = rng.getrandbits(1)
    sides = [arms[(first + position) % 2] for position in range(len(indices))]
    rng.shuffle(sides)
    return Key(study, arms, scale, dict(zip(names, sides, strict=True)), dict(zip(names, indices, strict=True)))


def write_page(to: Path, key: Key, files: dict[int, tuple[Path, Path]], captions: list[str]) -> None:
    """Write the page's folder: the template, the images, and pairs.js with nothing but names and captions."""
    shutil.copytree(TEMPLATE, to, dirs_exist_ok=True)
    (to / "pictures").mkdir()
    for name, index in key.index.items():
        by_arm = dict(zip(key.arms, files[index], strict=True))
        left = key.left[name]
        for side, arm in zip(SIDES, (left, key.other(left)), strict=True):
            without_metadata(by_arm[arm]).save(to / "pictures" / f"{name}-{side}.png")
    pairs = [{"id": name, "caption": captions[index]} for name, index in key.index.items()]
    content = f"const STUDY = {json.dumps({'id': key.study, 'pairs': pairs}, indent=1)}\n"
    (to / "pairs.js").write_text(content, encoding="utf-8")


def without_metadata(path: Path) -> Image.Image:
    """An image without the metadata of its file, such as the settings it was made with."""
    return Image.fromarray(np.asarray(Image.open(path).convert("RGB")))


def main(arguments: list[str] | None = None) -> None:
    """Write a page and its key."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation preference",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the experiment's folder")
    parser.add_argument(
        "--arms", nargs=2, required=True, metavar=("A", "B"), help="the two arms; results give the share of A"
    )
    parser.add_argument("--scale", type=float, required=True, help="γ")
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="for the captions, sides and names")
    parser.add_argument("--to", type=Path, required=True, metavar="PAGE", help="a new folder")
    options = parser.parse_args(arguments)
    try:
        key_file = build_page(
            options.out, tuple(options.arms), options.scale, options.pairs, options.seed, options.to
        )
    except ScfgError as error:
        parser.error(str(error))
    print(f"{options.to / 'index.html'}: {options.pairs} pairs. Do not show {key_file} to voters.")


if __name__ == "__main__":
    main()
