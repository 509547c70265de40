"""The paper's experiments: `python -m evaluation COMMAND`, where COMMAND is

small        the whole grid on the small bundled model
checkpoint   the paper's grid on a checkpoint of your own, in diffusers' format
preference   a page on which people compare two arms blindly; votes: what they said
accept       the small model against what it must reach, its segmentation by noise level among it; with --arch mmdit
             or cross a transformer of its world: what the attention of every block means, and guidance by it
follow       a second prompt that follows words: does it change its thing alone; needs ComfyUI
masks        how well masks from words fit the true things, on the small model
judge        train the small model's judge, a classifier of true scenes

Each has --help.
"""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "small": ".small",
    "checkpoint": ".checkpoint",
    "preference": ".preference.build",
    "votes": ".preference.result",
    "accept": ".accept",
    "follow": ".small_model.follow",
    "masks": ".small_model.masks",
    "judge": ".small_model.train_judge",
}


def main() -> None:
    """Run the command named first with the arguments that follow."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name not in COMMANDS:
        print(__doc__)
        sys.exit(0 if name in ("-h", "--help") else 2)
    import_module(COMMANDS[name], __package__).main(arguments)


if __name__ == "__main__":
    main()
