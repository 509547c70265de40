"""`python -m evaluation accept`: the bundled U-Net, or with `--arch` a transformer that was trained beside it."""

from __future__ import annotations

import argparse
from importlib import import_module

from demo.joint.model import ARCHITECTURES


def main(arguments: list[str] | None = None) -> None:
    """Hand the arguments to whatever measures that architecture."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--arch", choices=("unet", *ARCHITECTURES), default="unet")
    options, others = parser.parse_known_args(arguments)
    if options.arch == "unet":
        import_module(".small_model.acceptance", __package__).main(others)
    else:
        import_module(".transformer.acceptance", __package__).main(["--arch", options.arch, *others])
