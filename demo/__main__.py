"""`python -m demo`: the demo model's pictures by CFG and by S-CFG from the same noise, and what S-CFG saw."""

from __future__ import annotations

import argparse
import json
import os
import sys
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

from .captions import parse
from .model import DEFAULT, DemoModel, load_model
from .report import Pair, comparison, norms, steps_sheet
from .sample import SAMPLERS, sample, starting_noise
from .score import score

PROMPTS = (
    "a red circle and a blue square on a green background",
    "a yellow triangle on the left and a purple cross on the right",
    "a white circle on a black background",
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options; a bad one ends the program before anything is written."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--prompt", action="append", help="what to draw; may be given several times")
    parser.add_argument("--seed", type=_number(int, 0, 2**63 - 1), default=0)
    parser.add_argument("--scale", type=_number(float, 1.01, 100.0), default=5.0, help="guidance scale, above 1")
    parser.add_argument("--steps", type=_number(int, 1, 1000), default=30)
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddim")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the pictures and result.json")
    parser.add_argument("--weights", type=Path, default=DEFAULT, help="another model of demo.train")
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


def sample_pairs(options: argparse.Namespace) -> list[Pair]:
    """Every prompt by CFG and by S-CFG, from the same noise."""
    common = {"scale": options.scale, "steps": options.steps, "sampler": options.sampler}
    settings = Settings.preset(options.preset)
    pairs: list[Pair] = []
    with tqdm(total=2 * len(options.prompt) * options.steps, unit="step", leave=False) as bar:
        for index, prompt in enumerate(options.prompt):
            noise = starting_noise([options.seed + index])
            cfg, guided = (
                sample(options.model, [prompt], noise, settings=each, advance=bar.update, **common)
                for each in (None, settings)
            )
            pairs.append(Pair(prompt, cfg, guided))
    return pairs


def figures_of(model: DemoModel, pair: Pair) -> dict[str, Any]:
    """What can be said about one prompt's two pictures in numbers."""
    run = pair.scfg.run
    assert run is not None
    regions = region_norms(run)
    told = parse(model.tokenizer.words(pair.prompt))
    figures: dict[str, Any] = {
        "prompt": pair.prompt,
        "mean_guidance": run.mean_guidance(),
        "spread_before": spread(regions.classifier, regions.areas),
        "spread_after": spread(regions.rescaled, regions.areas),
        "notes": run.notes,
    }
    for name, sampled in (("cfg", pair.cfg), ("scfg", pair.scfg)):
        verdict = None if told is None else score(sampled.images, [told])[0]
        figures[name] = verdict and {
            "phrases_right": [bool(right) for right in verdict.phrases],
            "background_right": verdict.background,
        }
    return figures


def write_all(options: argparse.Namespace, pairs: list[Pair], began: float) -> dict[str, Any]:
    """Write pictures and figures to a temporary folder, then move them to `--out`, all or none."""
    ancestor = next(folder for folder in (options.out, *options.out.absolute().parents) if folder.is_dir())
    with tempfile.TemporaryDirectory(dir=ancestor, prefix=".demo-") as temporary:
        folder = Path(temporary)
        pictures = {
            "comparison.png": comparison(pairs),
            "steps.png": steps_sheet(options.model, pairs[0]),
            "norms.png": norms(pairs[0]),
        }
        for name, picture in pictures.items():
            Image.fromarray(picture).save(folder / name)
        result = {
            "preset": options.preset,
            "settings": asdict(Settings.preset(options.preset)),
            **{name: getattr(options, name) for name in ("seed", "scale", "steps", "sampler")},
            "prompts": [figures_of(options.model, pair) for pair in pairs],
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
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return "inf" if value == float("inf") else value


def print_table(result: dict[str, Any], out: Path) -> None:
    """One line per prompt, then where the files are."""
    wide = max(len(each["prompt"]) for each in result["prompts"])
    print(f"{'prompt':{wide}}  mean scale  spread of norms  right: CFG  S-CFG")
    for each in result["prompts"]:
        right = ["  –  " if each[name] is None else _right(each[name]) for name in ("cfg", "scfg")]
        print(
            f"{each['prompt']:{wide}}  {each['mean_guidance']:10.2f}  "
            f"{each['spread_before']:8.2f} → {each['spread_after']:.2f}  {right[0]:>10}  {right[1]:>5}"
        )
    notes = dict.fromkeys(note for each in result["prompts"] for note in each["notes"])
    for note in notes:
        print(f"note: {note}")
    print(f"{result['seconds']:.0f} s. Files: " + ", ".join(str(out / name) for name in FILES))


FILES = ("comparison.png", "steps.png", "norms.png", "result.json")


def _right(verdict: dict[str, Any]) -> str:
    background = verdict["background_right"]
    answers = [*verdict["phrases_right"], *([] if background is None else [background])]
    return f"{sum(answers)}/{len(answers)}"


def main(arguments: list[str] | None = None) -> None:
    """Parse, sample, write, tell."""
    began = time.monotonic()
    torch.set_num_threads(1)  # more of them only wait for each other at this size
    options = parse_arguments(arguments)
    pairs = sample_pairs(options)
    print_table(write_all(options, pairs, began), options.out)


if __name__ == "__main__":
    sys.exit(main())
