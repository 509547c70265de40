"""The small bundled model: held-out captions, one noise per index, and a judge that knows what was asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from demo.model import DEFAULT
from demo.world import Scenes, captions, held_out_scenes, spell
from scfg_core import Segmentation, Settings
from scfg_core.run.record import Run

from ..experiment import Drawn, Request
from ..regions import shuffled
from ..store import Pixels, Record
from .judge import GROUND, KINDS, WEIGHTS, Answers, answers, kinds, load_judge, to_tensor
from .sampling import Formula, load_fast, sample, starting_noise

PROMPTS, PROMPTS_SEED = 1024, 21
"""How many captions there are, and the seed that draws them all at once, so that fewer are the first of them."""

NOISE_SEED = 10_000
WATCH = Settings(strength=0.0)
OUT_OF_RANGE = 1.1
"""Values of an image beyond ±1 by more than the model's own rounding: what is cut off when it is shown."""


class SmallModel:
    """The `System` of `demo/`: images of 64×64 pixels, scenes that training never saw."""

    def __init__(
        self,
        *,
        weights: Path = DEFAULT,
        steps: int = 20,
        seed: int = NOISE_SEED,
        device: torch.device | str = "cpu",
        half: bool = True,
    ) -> None:
        """`seed`: noise of the first prompt; the next ones count up."""
        self._model, self.judge = load_fast(weights, device), load_judge(device=device)
        self._scenes: Scenes = held_out_scenes(PROMPTS, PROMPTS_SEED)
        self._tokens, _ = captions(self._scenes)
        self._made_with = {"weights": _hash(weights), "judge": _hash(WEIGHTS), "steps": steps, "seed": seed}
        self._made_with["precision"] = "bfloat16" if half else "float32"
        self._steps, self._seed, self._device, self._half = steps, seed, torch.device(device), half

    @property
    def captions(self) -> list[str]:
        return [spell(row) for row in self._tokens]

    def describe(self) -> Record:
        return self._made_with | {"device": self._device.type}

    def draw(self, request: Request) -> Drawn:
        """Draw and judge a batch; CFG is watched, too, which leaves its images as they are, unless γ differs."""
        arm, rows = request.arm, torch.tensor(request.indices)
        seeds = [self._seed + index for index in request.indices]
        images, run = sample(
            self._model,
            self._tokens[rows].to(self._device),
            starting_noise(seeds, self._device),
            request.scales,
            settings=arm.settings or (WATCH if arm.matches is None else None),
            formula=Formula(arm.rescale, arm.projected),
            steps=self._steps,
            half=self._half,
            resegment=self._other_regions(request, seeds),
        )
        pixels = to_pixels(images)
        found = answers(self.judge, to_tensor(pixels, self._device))
        known = verdicts(found, self._scenes[rows])
        for record, share in zip(
            known, (images.abs() > OUT_OF_RANGE).float().mean((1, 2, 3)).tolist(), strict=True
        ):
            record["out of range"] = share
        for record, more in zip(known, strengths_by_kind(run, found.patches.cpu()), strict=False):
            record |= more
        return Drawn(pixels, run, known)

    def _other_regions(self, request: Request, seeds: list[int]) -> Callable[[Segmentation], Segmentation] | None:
        if request.arm.regions == "shuffled":
            return lambda found: shuffled(found, seeds)
        if request.arm.regions == "true":
            assert request.drawn is not None
            shown = answers(self.judge, to_tensor(request.drawn, self._device)).patches
            return lambda found: regions_of(found, shown)
        return None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def to_pixels(images: Tensor) -> list[Pixels]:
    """Images (N, 3, h, w), range −1…1, as arrays (h, w, 3) of uint8."""
    levels = ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return list(levels.permute(0, 2, 3, 1).cpu().numpy())


def verdicts(found: Answers, asked: Scenes) -> list[Record]:
    """Per image: which things, ground and sky of those that the caption names are right, and whether all are."""
    right = torch.cat(
        [
            found.things_right(asked).cpu(),
            (found.grounds.cpu() == asked.ground)[:, None],
            (found.skies.cpu() == asked.sky)[:, None],
        ],
        dim=1,
    )
    records: list[Record] = []
    for answered, said in zip(right.tolist(), asked.said().tolist(), strict=True):
        things, ground, sky = (
            [answer for answer, named in zip(answered[part], said[part], strict=True) if named]
            for part in (slice(0, 3), slice(3, 4), slice(4, 5))
        )
        records.append({"all right": [all(things + ground + sky)], "things": things, "ground": ground, "sky": sky})
    return records


def strengths_by_kind(run: Run | None, patches: Tensor) -> list[Record]:
    """Per image and kind of region of the finished image: its guidance norm η over that of the whole image, before
    rescaling, and its mean ratio r; means over the evaluations. patches: what the judge sees (N, 16, 16)."""
    if run is None or not run.evaluations:
        return []
    norms = torch.stack([seen.classifier for seen in run.evaluations]).double()
    ratios = torch.stack([seen.ratio for seen in run.evaluations]).double().mean(dim=0)
    relative = (norms / norms.mean(dim=(2, 3), keepdim=True).clamp(min=1e-12)).mean(dim=0)
    shown = kinds(patches)
    records: list[Record] = []
    for norm, ratio, kind in zip(relative, ratios, shown, strict=True):
        record: Record = {}
        for number, name in enumerate(KINDS):
            mask = kind == number
            if mask.any():
                record |= {
                    f"norm of {name}": float(norm[mask].mean()),
                    f"ratio of {name}": float(ratio[mask].mean()),
                }
        records.append(record)
    return records


def regions_of(found: Segmentation, patches: Tensor) -> Segmentation:
    """The regions that the judge sees, each thing, the ground and the sky, in place of those that were found."""
    foreground = patches < GROUND
    has_things = foreground.flatten(1).any(dim=1)
    return replace(found, labels=patches, foreground=foreground | ~has_things[:, None, None])
