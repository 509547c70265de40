"""The whole grid on the small bundled model: `python -m evaluation small`.

Every arm draws the same captions, none of which training saw, at each γ, from the same noise; the main arms come
first. Started again after a kill, it goes on where it was, and `--report` writes the results of what is there. With
a CUDA device, `--prompts 256 --batch 256`; on CPUs, `torchrun --nproc-per-node N -m evaluation small` shares the
work among N processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from demo.drawing import to_float
from demo.model import DEFAULT
from demo.world import held_out_scenes

from .arms import ARMS
from .distances import Sight
from .experiment import draw_missing
from .options import add_plan, join, plan_of
from .results import write_results
from .small_model.judge import KINDS, Judge, feature_columns, features, to_tensor
from .small_model.system import NOISE_SEED, SmallModel
from .small_model.truth import draw_scenes
from .store import Store

MEASURES = ("all right", "things", "ground", "sky", "out of range")
STRENGTHS = tuple(f"{name} of {kind}" for name in ("norm", "ratio") for kind in KINDS)
REAL_SCENES, REAL_SEED = 5000, 6


def main(arguments: list[str] | None = None) -> None:
    """Draw and judge what is missing, then print and write the results."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    process, plan = join(cpu=options.device == "cpu"), plan_of(options)
    made_with = {"weights": options.weights, "steps": options.steps, "seed": options.seed}
    system = SmallModel(**made_with, device=process.device, half=options.dtype == "bf16")
    store = Store(options.out, process.process_index)
    with process.main_process_first():
        store.begin(system.describe() | plan.describe(), system.captions)
    if not options.report:
        draw_missing(system, plan, store, process.process_index, process.num_processes)
    process.wait_for_everyone()
    if not process.is_main_process:
        return
    store.read()
    sight = None if options.rounds < 0 else _sight(system.judge, process.device)
    print(write_results(store, plan, MEASURES, system.describe(), sight, options.rounds, STRENGTHS))


def _sight(judge: Judge, device: torch.device) -> Sight:
    scenes = held_out_scenes(REAL_SCENES, REAL_SEED)
    images, _ = draw_scenes(scenes, REAL_SEED)
    real = torch.cat([features(judge, to_float(part).to(device)).cpu() for part in images.split(250)])
    return Sight(lambda found: features(judge, to_tensor(found, device)), real, feature_columns())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation small", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names, scales = list(ARMS), [1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0]
    add_plan(parser, arms=names, choices=names, scales=scales, prompts=96, main_prompts=0, batch=16)
    parser.add_argument("--weights", type=Path, default=DEFAULT)
    parser.add_argument("--steps", type=int, default=20, help="of DDIM")
    parser.add_argument(
        "--seed", type=int, default=NOISE_SEED, help="noise of the first prompt; the next ones count up"
    )
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="of the network")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("out/small"))
    return parser
