"""The registry's icon and banner, in the sizes that it takes, from a real run."""

import numpy as np
from PIL import Image

from demo.artwork import BANNER, ICON, main


def test_both_are_written(tmp_path):
    main(["--steps", "3", "--out", str(tmp_path / "new")])
    with Image.open(tmp_path / "new" / "icon.png") as icon, Image.open(tmp_path / "new" / "banner.png") as banner:
        assert icon.size == (ICON, ICON) and icon.mode == "RGBA"
        alpha = np.asarray(icon)[..., 3]
        assert alpha[0, 0] == 0 and alpha[ICON // 2, ICON // 2] == 255
        assert banner.size == BANNER
        pixels = np.asarray(banner.convert("RGB"))
    assert pixels[:, :320].std() > 10, "no name at the left"
    assert pixels[:, 400:].std() > 40, "no images at the right"
    assert (pixels[:30] == 255).all() and (pixels[-30:] == 255).all()
    assert (pixels[:, -40:] == 255).all() and (pixels[:, :40] == 255).all()
