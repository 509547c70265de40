import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from evaluation.preference.build import build_page
from evaluation.preference.key import Key

from .experiment import ARMS, DRAWN, PAIRS, SCALE


@pytest.fixture
def out(tmp_path):
    """An experiment of two arms, whose pictures say in their files who made them."""
    rng = np.random.default_rng(0)
    captions = [f"a scene, the number {index} of <all> \u2028" for index in range(DRAWN)]
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    for arm in ARMS:
        folder = tmp_path / "images" / arm / "7.5"
        folder.mkdir(parents=True)
        said = PngImagePlugin.PngInfo()
        said.add_text("Description", arm)
        for index in range(DRAWN):
            image = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(image).save(folder / f"{index:06d}.png", pnginfo=said)
    return tmp_path


@pytest.fixture
def page(out):
    build_page(out, ARMS, SCALE, PAIRS, 0, out / "page")
    return out / "page"


@pytest.fixture
def key(page):
    return Key.read(page.with_name("page.key.json"))
