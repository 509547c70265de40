"""S-CFG in one picture: real regions, their names inside them, and bars as long as they should be."""

import numpy as np
from PIL import Image

from demo.overview import TILE, _bars, _inside, main
from views.owners import Owner

RED, GREEN = (200, 0, 0), (0, 200, 0)


def test_it_is_written(tmp_path):
    main(["--steps", "3", "--out", str(tmp_path / "new" / "overview.png")])
    picture = np.asarray(Image.open(tmp_path / "new" / "overview.png"))
    assert picture.shape[1] > 4 * TILE
    assert picture.std() > 20


def test_bars_are_as_long_as_the_strengths():
    picture = _bars({Owner("a", (1,), RED): 2.0, Owner("b", (2,), GREEN): 1.0}, top=2.0)
    red, green = ((picture == colour).all(axis=2).sum() for colour in (RED, GREEN))
    assert abs(red / green - 2) < 0.05


def test_a_word_stands_inside_its_region():
    ring = np.ones((9, 9), dtype=bool)
    ring[2:7, 2:7] = False
    assert ring[_inside(ring)]
    square = np.zeros((9, 9), dtype=bool)
    square[4:9, 0:5] = True
    assert _inside(square) == (6, 2)
