"""`update every k-th evaluation`: what it saves and which labels it changes, on the demo model.

Agreement compares observing runs, which see the same latents, with labels collected at every evaluation. The image
change compares guided runs: mean |Δ| against k = 1, as a share of the change from plain CFG to S-CFG.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from tqdm import tqdm

from demo.model import load_model
from scfg_core import Settings
from scfg_core.run.agreement import agreement
from scfg_core.run.session import Collection

from . import clock, report
from .clock import Ratio, seconds
from .sampling import PROMPTS, sample

EVERY = (1, 2, 3, 5)
STEPS = 25
COLUMNS = {
    "name": "update every",
    "time": "time, of plain CFG",
    "label_agreement": "labels as at k = 1",
    "foreground_agreement": "foreground as at k = 1",
    "image_change": "image change, of S-CFG's",
}


def run(prompts: list[str], steps: int, pairs: int) -> list[dict]:
    model = load_model()
    guiding = Settings()
    observing = replace(guiding, strength=0.0)
    choices = {every: Collection(every=every) for every in EVERY}
    plain_times: list[float] = []
    times: dict[int, list[float]] = {every: [] for every in EVERY}
    shares: dict[int, list] = {every: [] for every in EVERY}
    changes: dict[int, list[float]] = {every: [] for every in EVERY}
    with tqdm(total=len(prompts) * (1 + 2 * len(EVERY)) + pairs * (1 + len(EVERY)), unit="run") as bar:
        for seed, prompt in enumerate(prompts):
            plain, _ = sample(model, prompt, None, Collection(), steps, seed)
            bar.update()
            images, records = {}, {}
            for every, collection in choices.items():
                images[every], _ = sample(model, prompt, guiding, collection, steps, seed)
                _, records[every] = sample(model, prompt, observing, collection, steps, seed)
                bar.update(2)
            scfg_change = (images[1] - plain).abs().mean()
            for every in EVERY:
                shares[every].append(agreement(records[every], records[1]))
                changes[every].append(float((images[every] - images[1]).abs().mean() / scfg_change))
        for _ in range(pairs):
            plain_times.append(seconds(lambda: sample(model, prompts[0], None, Collection(), steps), "cpu"))
            bar.update()
            for every, collection in choices.items():
                call = lambda chosen=collection: sample(model, prompts[0], guiding, chosen, steps)  # noqa: E731
                times[every].append(seconds(call, "cpu"))
                bar.update()
    rows = []
    for every in EVERY:
        ratio = Ratio.of(times[every], plain_times)
        rows.append(
            {
                "name": f"k = {every}",
                **ratio.parts(),
                "label_agreement": _mean([share.labels for share in shares[every]]),
                "foreground_agreement": _mean([share.foreground for share in shares[every]]),
                "image_change": _mean(changes[every]),
                "images": len(prompts),
                "steps": steps,
            }
        )
    return rows


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def main(options: argparse.Namespace) -> None:
    rows = run(options.prompt or PROMPTS, options.steps or STEPS, options.pairs or 5)
    report.show("Labels updated at every k-th evaluation, demo model", rows, COLUMNS)
    report.save(options.out / "update.json", "update", rows, clock.machine("cpu"))
