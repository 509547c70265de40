"""CFG against S-CFG on paired prompts: `python -m demo.compare` → a table with 95 % intervals.

Every prompt is drawn from the same noise by each arm, at each guidance scale γ:

cfg        plain CFG at γ.
scfg:P     S-CFG with preset P at γ.
matched:P  plain CFG at γ times the mean ratio that S-CFG with P had on this very picture: as strong, but even.
           Without it a gain of S-CFG could be nothing but a higher γ.

Prompts are captions that training never saw. A phrase is right when its colour and its shape are (`demo.score`);
places and backgrounds are counted apart. Every finished batch is appended to pictures.jsonl; started again, the
command goes on from there and ends with the same table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from scfg_core import PRESETS, Settings
from scfg_core.trace import Run
from views.curves import region_norms, spread

from .compare_table import arms_of, summarise, table
from .evaluate import held_out_scenes
from .model import DEFAULT, DemoModel, load_model
from .places import places_right
from .records import Pictures, Record
from .sample import SAMPLERS, sample, starting_noise
from .score import score
from .world import Description

SCALES = (3.0, 5.0, 7.5)
PROMPTS_SEED = 500_003


def draw_missing(
    model: DemoModel, told: list[Description], pictures: Pictures, options: argparse.Namespace
) -> None:
    """Draw and judge whatever is not in the file yet, batch by batch."""
    arms = arms_of(options.presets)
    batches = [range(first, min(first + options.batch, len(told))) for first in range(0, len(told), options.batch)]
    work = [(scale, batch, arm) for scale in options.scales for batch in batches for arm in arms]
    with tqdm(total=len(told) * len(options.scales) * len(arms), unit="picture", smoothing=0.05) as bar:
        for scale, batch, arm in work:
            left = pictures.missing(arm, scale, batch)
            bar.update(len(batch) - len(left))
            if left:
                pictures.add(draw_batch(model, told, pictures, options, arm, scale, left))
                bar.update(len(left))


def draw_batch(
    model: DemoModel,
    told: list[Description],
    pictures: Pictures,
    options: argparse.Namespace,
    arm: str,
    scale: float,
    indices: list[int],
) -> list[Record]:
    """One arm's records of these prompts."""
    kind, _, preset = arm.partition(":")
    used: float | Tensor = scale
    if kind == "matched":
        strengths = [pictures.found[f"scfg:{preset}", scale, index]["mean_scale"] for index in indices]
        used = torch.tensor(strengths)
    asked = [told[index] for index in indices]
    sampled = sample(
        model,
        [each.caption for each in asked],
        starting_noise([options.seed + index for index in indices]),
        scale=used,
        settings=Settings.preset(preset) if kind == "scfg" else None,
        steps=options.steps,
        sampler=options.sampler,
    )
    strengths = torch.as_tensor(used, dtype=torch.float64).expand(len(indices)).tolist()
    extras: list[Record] = [{"mean_scale": strength} for strength in strengths]
    if sampled.run is not None:
        extras = [_strength(sampled.run, image) for image in range(len(indices))]
    verdicts = zip(score(sampled.images, asked), places_right(sampled.images, asked), strict=True)
    return [
        {
            "arm": arm,
            "scale": scale,
            "index": index,
            "phrases": [bool(right) for right in verdict.phrases],
            "colours": [bool(right) for right in verdict.colours],
            "shapes": [bool(right) for right in verdict.shapes],
            "background": [] if verdict.background is None else [bool(verdict.background)],
            "places": places,
            **extra,
        }
        for index, (verdict, places), extra in zip(indices, verdicts, extras, strict=True)
    ]


def _strength(run: Run, image: int) -> Record:
    """How strongly one picture of an S-CFG run was guided, and how equal its regions became (Figure 1)."""
    scales = [float(each.ratio[image].mean()) * each.guidance_scale for each in run.evaluations]
    norms = region_norms(run, image)
    return {
        "mean_scale": sum(scales) / len(scales),
        "spread_before": spread(norms.classifier, norms.areas),
        "spread_after": spread(norms.rescaled, norms.areas),
    }


def main(arguments: list[str] | None = None) -> None:
    """Draw what is missing, then print and write the table."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=["default"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddim")
    parser.add_argument("--seed", type=int, default=0, help="noise of the first prompt; the next ones count up")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=DEFAULT)
    parser.add_argument("--out", type=Path, default=Path("out/compare"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(options.weights)
    told = held_out_scenes(options.prompts, PROMPTS_SEED).descriptions
    header = {
        "weights": hashlib.sha256(options.weights.read_bytes()).hexdigest()[:16],
        **{name: getattr(options, name) for name in ("prompts", "steps", "sampler", "seed")},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        pictures = Pictures(options.out / "pictures.jsonl", header)
    except ValueError as error:
        parser.error(str(error))
    draw_missing(model, told, pictures, options)
    rows = summarise(pictures, len(told), options.scales, options.presets)
    text = table(rows)
    (options.out / "table.md").write_text(text + "\n")
    (options.out / "table.json").write_text(json.dumps({"made with": header, "rows": rows}, default=vars, indent=2))
    print(text)


if __name__ == "__main__":
    main()
