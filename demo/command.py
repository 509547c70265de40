"""The command `python -m demo`."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image
from tqdm import tqdm

from scfg_core import PRESETS, Settings
from views.curves import region_norms, spread

from .model import DEFAULT, load_model
from .report import Samples, comparison, norms, steps_sheet
from .sample import SAMPLERS, Sampled, sample, starting_noise

DESCRIPTION = "The demo model's images by CFG and by S-CFG from the same noise, and what S-CFG saw."

PROMPTS = (
    "a purple balloon and a white cat on grass at noon",
    "a red house and an orange tree on snow at night",
    "a yellow rocket and a pink moon on sand at sunset",
)
"""Written down, with seeds from 0 on, before the weights were final: what they show was not chosen."""


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options; a bad one ends the program before anything is written."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=DESCRIPTION)
    parser.add_argument("--prompt", action="append", help="what to draw; may be given several times")
    parser.add_argument("--seed", type=_number(int, 0, 2**63 - 1), default=0)
    parser.add_argument("--scale", type=_number(float, 1.01, 100.0), default=3.0, help="guidance scale, above 1")
    parser.add_argument("--steps", type=_number(int, 1, 1000), default=30)
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddim")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the images and result.json")
    parser.add_argument("--weights", type=Path, default=DEFAULT, help="another model of demo.training")
    options = parser.parse_args(arguments)
    options.prompt = options.prompt or list(PROMPTS)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is a file; give a folder")
    if not options.weights.is_file():
        parser.error(f"--weights {options.weights} is not there")
    try:
        options.model = load_model(options.weights)
        options.model.tokenizer(options.prompt)
    except (ValueError, KeyError, RuntimeError) as error:
        parser.error(str(error))
    return options


def _number(kind: type, low: float, high: float) -> Any:
    def check(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is outside {low} to {high}")
        return value

    check.__name__ = kind.__name__
    return check


def sample_prompts(options: argparse.Namespace) -> list[Samples]:
    """Every prompt by CFG, by S-CFG, and by CFG at S-CFG's mean scale, from the same noise."""
    found: list[Samples] = []
    with tqdm(total=3 * len(options.prompt) * options.steps, unit="step", leave=False) as bar:
        for index, prompt in enumerate(options.prompt):

            def draw(scale: float, settings: Settings | None, index: int = index, prompt: str = prompt) -> Sampled:
                return sample(
                    options.model,
                    [prompt],
                    starting_noise([options.seed + index]),
                    scale=scale,
                    settings=settings,
                    steps=options.steps,
                    sampler=options.sampler,
                    advance=bar.update,
                )

            guided = draw(options.scale, Settings.preset(options.preset))
            assert guided.run is not None
            found.append(
                Samples(
                    prompt,
                    cfg=draw(options.scale, None),
                    scfg=guided,
                    matched=draw(guided.run.mean_guidance(), None),
                )
            )
    return found


def figures_of(samples: Samples) -> dict[str, Any]:
    """What can be said about one prompt's images in numbers.

    Spreads: of the guidance's norm over the regions, before and after rescaling. Changes: mean difference of
    S-CFG's image from either of CFG's, in levels of 0…255.
    """
    run = samples.scfg.run
    assert run is not None
    regions = region_norms(run)
    guided = samples.scfg.images
    return {
        "prompt": samples.prompt,
        "mean_guidance": run.mean_guidance(),
        "spread_before": spread(regions.classifier, regions.areas),
        "spread_after": spread(regions.rescaled, regions.areas),
        "change_from_cfg": 127.5 * (guided - samples.cfg.images).abs().mean().item(),
        "change_from_cfg_of_the_same_mean": 127.5 * (guided - samples.matched.images).abs().mean().item(),
        "notes": run.notes,
    }


def write_all(options: argparse.Namespace, prompts: list[Samples], began: float) -> dict[str, Any]:
    """Write sheets and figures to a temporary folder, then move them to `--out`, all or none."""
    ancestor = next(folder for folder in (options.out, *options.out.absolute().parents) if folder.is_dir())
    with tempfile.TemporaryDirectory(dir=ancestor, prefix=".demo-") as temporary:
        folder = Path(temporary)
        pictures = {
            "comparison.png": comparison(prompts),
            "steps.png": steps_sheet(options.model, prompts[0]),
            "norms.png": norms(prompts[0]),
        }
        for name, picture in pictures.items():
            Image.fromarray(picture).save(folder / name)
        result = {
            "preset": options.preset,
            "settings": asdict(Settings.preset(options.preset)),
            **{name: getattr(options, name) for name in ("seed", "scale", "steps", "sampler")},
            "prompts": [figures_of(samples) for samples in prompts],
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
            "seconds": round(time.monotonic() - began, 2),
        }
        (folder / "result.json").write_text(json.dumps(_finite(result), indent=2) + "\n")
        options.out.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir()):
            os.replace(file, options.out / file.name)
    return result


def _finite(value: Any) -> Any:
    """The same for JSON, which has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return "inf" if value == float("inf") else value


def print_table(result: dict[str, Any], out: Path) -> None:
    """One line per prompt, then where the files are."""
    width = max(len(figures["prompt"]) for figures in result["prompts"])
    print(f"{'prompt':{width}}  mean scale  spread of norms  change from CFG, from CFG of the same mean")
    for figures in result["prompts"]:
        print(
            f"{figures['prompt']:{width}}  {figures['mean_guidance']:10.2f}  "
            f"{figures['spread_before']:8.2f} → {figures['spread_after']:.2f}  "
            f"{figures['change_from_cfg']:15.1f}  {figures['change_from_cfg_of_the_same_mean']:24.1f}"
        )
    notes = dict.fromkeys(note for figures in result["prompts"] for note in figures["notes"])
    for note in notes:
        print(f"note: {note}")
    print(f"{result['seconds']:.0f} s. Files: " + ", ".join(str(out / name) for name in FILES))


FILES = ("comparison.png", "steps.png", "norms.png", "result.json")


def main(arguments: list[str] | None = None) -> None:
    """Parse, sample, write, tell."""
    began = time.monotonic()
    torch.set_num_threads(1)  # more of them only wait for each other at this size
    options = parse_arguments(arguments)
    prompts = sample_prompts(options)
    print_table(write_all(options, prompts, began), options.out)
