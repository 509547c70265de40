"""The whole grid on the small bundled model: `python -m evaluation small`.

Every arm draws the first PROMPTS captions, none of which training saw, at each γ; the main arms (cfg, default,
matched) go on to MAIN_PROMPTS, so that their pictures suffice for a Fréchet distance. Started again after a kill,
it goes on where it was; with `torchrun --nproc-per-node N -m evaluation small` N processes share the work.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from demo.sample import to_pixels
from demo.world import held_out_scenes

from .arms import ARMS
from .experiment import draw_missing
from .options import add_plan, join, plan_of
from .results import features_of, frechet_groups, write_results
from .small_model.classifier import accuracy, features_of_pictures, load_or_train
from .small_model.system import PROMPTS, SmallModel
from .store import Store

MEASURES = ("phrases", "colours", "backgrounds", "places")
REAL_SCENES, REAL_SEED = 5000, 500_004


def main(arguments: list[str] | None = None) -> None:
    """Draw and judge what is missing, then print and write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation small", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_plan(parser, arms=list(ARMS), scales=[3.0, 5.0, 7.5], prompts=200, main_prompts=PROMPTS, batch=20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler", choices=("ddim", "dpmpp"), default="ddim")
    parser.add_argument("--seed", type=int, default=0, help="noise of the first prompt; the next ones count up")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--out", type=Path, default=Path("out/small"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    process, plan = join(cpu=True), plan_of(options)
    system = SmallModel(steps=options.steps, sampler=options.sampler, seed=options.seed)
    store = Store(options.out, process.process_index)
    with process.main_process_first():
        store.begin(system.describe() | plan.describe(), system.captions)
    draw_missing(system, plan, store, process.process_index, process.num_processes)
    process.wait_for_everyone()
    if not process.is_main_process:
        return
    store.read()
    groups = None
    made_with = system.describe()
    if options.rounds >= 0:
        classifier = load_or_train(options.out / "classifier.safetensors")
        scenes = held_out_scenes(REAL_SCENES, REAL_SEED)
        made_with["classifier"] = dict(zip(("shapes", "backgrounds"), accuracy(classifier, scenes), strict=True))
        features = features_of(store, plan, lambda images: features_of_pictures(classifier, images))
        real = features_of_pictures(classifier, [to_pixels(image) for image in scenes.images])
        groups = frechet_groups(features, real, plan, options.rounds)
    print(write_results(store, plan, MEASURES, made_with, groups))
