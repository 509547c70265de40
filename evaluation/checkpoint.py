"""The paper's grid on a checkpoint of your own, a folder in diffusers' format: `python -m evaluation checkpoint`.

    python -m evaluation checkpoint stable-diffusion-v1-5 --captions captions_val2014.json --prompts 30000 \\
        --images val2014 --inception weights-inception-2015-12-05-6726825d.pth --clip clip-vit-large-patch14 \\
        --sampler ddim --steps 250 --batch 8

draws 30,000 prompts by every arm at γ 2, 3, 5, 7.5 and 10, and ends with CLIP scores, Fréchet distances, their
plots and the ablation. Start it again after a kill and it goes on; start it with torchrun or `accelerate launch`
and the processes share the work, one GPU each. Without --inception or --clip that part is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from .arms import ARMS
from .distances import Sight
from .experiment import Plan, draw_missing
from .frechet import Extractor, kept_features
from .measures import clip_scorer, image_files, inception, real_images, score_missing
from .options import add_plan, join, plan_of
from .pipelines import SCHEDULERS, Parts, Pipelines, Sampling
from .prompts import Prompt, read_prompts
from .results import write_results
from .store import Store

CHOICES = [name for name, arm in ARMS.items() if arm.regions != "true" and not arm.projected]
DRAWN = [name for name in CHOICES if not ARMS[name].rescale]
"""Without those that some pipelines do not know."""

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def main(arguments: list[str] | None = None, extractor: Extractor | None = None) -> None:
    """Draw what is missing, look at it, print and write the results. `extractor` takes the place of Inception."""
    options = _parser().parse_args(arguments)
    process, plan = join(cpu=options.device == "cpu"), plan_of(options)
    prompts = read_prompts(options.captions, max(plan.prompts, plan.main_prompts), options.seed)
    described = [] if options.images is None else image_files(options.images, prompts)
    store = Store(options.out, process.process_index)
    made_with = store.plan() if options.report else _draw(options, plan, prompts, store, process)
    clip_prompts = options.clip_prompts or plan.prompts
    if options.clip is not None and not options.report:
        scorer = clip_scorer(options.clip, process.device)
        score_missing(store, plan, scorer, clip_prompts, process.process_index, process.num_processes)
    process.wait_for_everyone()
    if not process.is_main_process:
        return
    store.read()
    if extractor is None and options.inception is not None:
        extractor = inception(options.inception, process.device)
    sight = None
    if extractor is not None and described and options.rounds >= 0:
        kept = store.folder / "features" / "real.npy"
        real = kept_features(kept, extractor, real_images(described), len(described))
        sight = Sight(extractor, real, {"whole": slice(None)})
    measures = ("clip",) if options.clip else ()
    print(write_results(store, plan, measures, made_with, sight, options.rounds))


def _draw(
    options: argparse.Namespace, plan: Plan, prompts: list[Prompt], store: Store, process: PartialState
) -> dict[str, Any]:
    """Draw what is missing; the model leaves the device when this returns."""
    parts = Parts(options.folder, options.second_stage, options.controlnet, options.conditions)
    sampling = Sampling(
        options.sampler, options.steps, options.seed, options.size, options.kept_size, options.negative
    )
    system = Pipelines(parts, prompts, sampling, process.device, DTYPES[options.dtype])
    made_with = system.describe() | {"dtype": options.dtype}
    with process.main_process_first():
        store.begin(made_with | plan.describe(), system.captions)
    draw_missing(system, plan, store, process.process_index, process.num_processes)
    process.wait_for_everyone()
    return made_with


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, help="SD 1.5, 2.1 or XL, DreamBooth's or merged weights, or IF's stage I"
    )
    parser.add_argument("--second-stage", type=Path, help="folder of IF's stage II")
    parser.add_argument("--controlnet", type=Path, help="folder of a ControlNet")
    parser.add_argument("--conditions", type=Path, help="its condition images, named like the captions' images")
    parser.add_argument(
        "--captions", type=Path, required=True, help="captions_*.json of COCO, or a prompt per line"
    )
    parser.add_argument("--images", type=Path, help="folder of the images that the captions describe")
    parser.add_argument("--inception", type=Path, help="weights of FID's Inception, as torch-fidelity has them")
    parser.add_argument("--clip", type=Path, help="folder of a CLIP model, as transformers has it")
    parser.add_argument("--clip-prompts", type=int, help="prompts with a CLIP score; all of --prompts by default")
    parser.add_argument("--sampler", choices=SCHEDULERS, default="ddim")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first prompt's noise, and of the prompts' order"
    )
    parser.add_argument("--size", type=int, help="side of the image that is drawn, pixels")
    parser.add_argument("--kept-size", type=int, help="side of the image that is kept, pixels")
    parser.add_argument("--negative", default="", help="negative prompt")
    parser.add_argument("--dtype", choices=DTYPES, default="fp16" if torch.cuda.is_available() else "fp32")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    parser.add_argument("--out", type=Path, default=Path("out/checkpoint"))
    scales = [2.0, 3.0, 5.0, 7.5, 10.0]
    add_plan(parser, arms=DRAWN, choices=CHOICES, scales=scales, prompts=5000, main_prompts=0, batch=4)
    return parser
