"""Train the demo model: `python -m demo.training first`, then `start`, then `second`; or a transformer: `mmdit`.

    first   from nothing, on captions alone: five minutes on a GPU, a day and a half on one CPU thread
    start   the key of START, from the first model: minutes anywhere
    second  all weights, on captions with errors, from `start`'s model: three quarters of an hour on a CPU thread
    mmdit   a joint-attention transformer from nothing, by flow matching, in the layout of Stable Diffusion 3:
            five minutes on a GPU (--seconds 300), an hour and more on one CPU thread (--depth 4 --batch 32)
    cross   the same with separate attention to a text that is padded with zeros, in the layout of Anima

The state goes to --out now and then and holds all that --resume needs; every number of demo/training/settings.py is
an option. The averaged weights go to --export at the end.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..joint.model import ARCHITECTURES
from ..model import DEFAULT, load_model
from .first import First
from .flow import Flow
from .second import Second
from .settings import FirstTraining, FlowTraining, SecondTraining, StartTraining
from .stage import Stage
from .start import Start

SETTINGS = {"first": FirstTraining, "start": StartTraining, "second": SecondTraining}
SETTINGS |= {architecture: FlowTraining for architecture in ARCHITECTURES}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options, with the settings of its stage in `settings`."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.training", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, settings in SETTINGS.items():
        stage = stages.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        if name in ("start", "second"):
            stage.add_argument("--model", type=Path, required=True, help="weights to go on from")
        if name == "second":
            stage.add_argument("--first", type=Path, required=True, help="weights of the first stage")
        stage.add_argument("--resume", type=Path, help="state to go on from")
        stage.add_argument("--out", type=Path, default=Path(f"out/training/{name}.pt"), help="state")
        bundled = Path(f"out/training/{name}.safetensors") if name in ARCHITECTURES else DEFAULT
        stage.add_argument("--export", type=Path, nargs="?", const=bundled, help="weights")
        stage.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
        stage.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
        for field in fields(settings):
            option = f"--{field.name.replace('_', '-')}"
            stage.add_argument(option, type=type(field.default), default=field.default, help="a setting")
    options = parser.parse_args(arguments)
    settings = SETTINGS[options.stage]
    options.settings = settings(**{field.name: getattr(options, field.name) for field in fields(settings)})
    return options


def make_stage(options: argparse.Namespace) -> Stage:
    """The stage, at its beginning."""
    make: dict[str, Any] = {
        "first": lambda: First(options.settings, options.device),
        "start": lambda: Start(load_model(options.model), options.settings, options.device),
        "second": lambda: Second(
            load_model(options.model), load_model(options.first), options.settings, options.device
        ),
    }
    make |= {name: lambda name=name: Flow(name, options.settings, options.device) for name in ARCHITECTURES}
    return make[options.stage]()


def main(arguments: list[str] | None = None) -> None:
    """Train a stage to its end."""
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.set_float32_matmul_precision("high")
    stage = make_stage(options)
    if options.resume:
        stage.resume(options.resume)
    stage.run(options.out)
    if options.export:
        stage.export(options.export)


if __name__ == "__main__":
    main()
