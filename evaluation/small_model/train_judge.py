"""Train the judge on true scenes: `python -m evaluation judge`.

Two stages. The classifier of scenes sees STEPS batches of scenes, noisy and in changed contrast, none of them held
out; then the head of patches sees PATCH_STEPS batches, while the rest stays as it is. Half a minute on a GPU; on a
CPU the first stage takes hours, and `--keep-classifier` trains the head of the given weights alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import trange

from demo.drawing import to_float
from demo.words import NOUNS
from demo.world import Scenes, held_out_scenes, training_scenes

from ..statistics import Figure, share
from .judge import WEIGHTS, Judge, answers, kinds, load_judge, save_judge
from .truth import draw_scenes, patch_classes

SEED, HELD_OUT_SEED = 77_000, 5
RATE, DECAY, WARMUP = 2e-3, 0.02, 50


class Pool:
    """True scenes that are not held out, drawn once, in random batches."""

    def __init__(self, count: int, device: str) -> None:
        scenes = training_scenes(count, SEED)
        self.images, owners = draw_scenes(scenes, SEED, device)
        self.patches = patch_classes(scenes, owners)
        self.nouns, self.colours = (value.to(device) for value in targets(scenes))
        self.grounds, self.skies = scenes.ground.to(device), scenes.sky.to(device)
        self.device = device

    def batches(self, steps: int, size: int, name: str) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(step, rows, images −1…1 with some noise, and contrast from 0.85 to 1.15)."""
        rng = torch.Generator(self.device).manual_seed(SEED)

        def uniform() -> Tensor:
            return torch.rand(size, 1, 1, 1, generator=rng, device=self.device)

        for step in trange(steps, desc=name, unit="step"):
            rows = torch.randint(len(self.images), (size,), generator=rng, device=self.device)
            images = to_float(self.images[rows])
            noise = torch.randn(images.shape, generator=rng, device=self.device)
            yield step, rows, (images + 0.15 * uniform() * noise) * (0.85 + 0.3 * uniform())


def targets(scenes: Scenes) -> tuple[Tensor, Tensor]:
    """Which nouns are there (N, 15), 0 or 1, and the indices of their colours (N, 15), 0 for those that are not."""
    there = torch.zeros(len(scenes), len(NOUNS) + 1)
    colours = torch.zeros(len(scenes), len(NOUNS) + 1, dtype=torch.int64)
    place = torch.where(scenes.present, scenes.noun, len(NOUNS))
    there.scatter_(1, place, 1.0)
    colours.scatter_(1, place, scenes.colour)
    return there[:, :-1], colours[:, :-1]


def train_classifier(judge: Judge, pool: Pool, steps: int, size: int) -> None:
    """The first stage: all but the head of patches."""
    parameters = [value for name, value in judge.named_parameters() if not name.startswith("patches")]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=DECAY)
    for step, rows, images in pool.batches(steps, size, "classifier"):
        with torch.autocast(pool.device, torch.bfloat16, enabled=pool.device == "cuda"):
            nouns, colours, grounds, skies = (logits.float() for logits in judge(images))
        there = pool.nouns[rows]
        wrong = F.cross_entropy(colours.transpose(1, 2), pool.colours[rows], reduction="none")
        loss = 4 * F.binary_cross_entropy_with_logits(nouns, there) + (wrong * there).sum() / there.sum()
        loss = loss + F.cross_entropy(grounds, pool.grounds[rows]) + F.cross_entropy(skies, pool.skies[rows])
        _descend(optimiser, loss, step, steps)


def train_patches(judge: Judge, pool: Pool, steps: int, size: int) -> None:
    """The second stage: the head of patches."""
    optimiser = torch.optim.AdamW(judge.patches.parameters(), RATE, weight_decay=DECAY)
    for step, rows, images in pool.batches(steps, size, "patches"):
        with torch.no_grad():
            stages = judge.stages(images)
        _descend(optimiser, F.cross_entropy(judge.patch_logits(stages), pool.patches[rows]), step, steps)


def _descend(optimiser: torch.optim.Optimizer, loss: Tensor, step: int, steps: int) -> None:
    """One step; the rate rises for a while, stays for a sixth, and falls linearly to a fiftieth."""
    optimiser.zero_grad()
    loss.backward()
    for group in optimiser.param_groups:
        group["lr"] = RATE * min(1.0, (step + 1) / WARMUP, max(0.02, 1.2 * (1 - step / steps)))
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimiser.step()


@torch.no_grad()
def accuracy(judge: Judge, count: int, batch: int = 250) -> dict[str, Figure]:
    """Shares of right answers on true scenes that training never saw: things, grounds, skies, kinds of patches."""
    scenes = held_out_scenes(count, HELD_OUT_SEED)
    images, owners = draw_scenes(scenes, HELD_OUT_SEED)
    patches = patch_classes(scenes, owners)
    right: dict[str, list[list[bool]]] = {"things": [], "ground": [], "sky": [], "kinds of patches": []}
    for start in range(0, count, batch):
        rows = slice(start, start + batch)
        found, asked = answers(judge, to_float(images[rows])), scenes[rows]
        things = found.things_right(asked)
        right["things"] += [row[there].tolist() for row, there in zip(things, asked.present, strict=True)]
        right["ground"] += [[answer] for answer in (found.grounds == asked.ground).tolist()]
        right["sky"] += [[answer] for answer in (found.skies == asked.sky).tolist()]
        right["kinds of patches"] += (kinds(found.patches) == kinds(patches[rows])).flatten(1).tolist()
    return {name: share(groups) for name, groups in right.items()}


def main(arguments: list[str] | None = None) -> None:
    """Train, save, and print the accuracy."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1081)
    parser.add_argument("--patch-steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--scenes", type=int, default=60_000, help="that are drawn, a tenth of them held out")
    parser.add_argument("--keep-classifier", action="store_true", help="of --weights; only the head is trained")
    parser.add_argument("--check", type=int, default=4000, help="held-out scenes of the final check")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    options = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    judge, pool = Judge().to(device), Pool(options.scenes, device)
    if options.keep_classifier:
        kept = load_judge(options.weights, device).state_dict()
        judge.load_state_dict({name: value for name, value in kept.items() if "patches" not in name}, strict=False)
    else:
        train_classifier(judge, pool, options.steps, options.batch)
    train_patches(judge, pool, options.patch_steps, options.batch)
    save_judge(judge, options.weights)
    for name, figure in accuracy(load_judge(options.weights), options.check).items():
        print(f"{name:18} {figure}  n = {figure.n}")
