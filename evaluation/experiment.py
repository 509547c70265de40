"""Drawing an experiment: every prompt, from the same noise, by each arm at each guidance scale γ.

Work is cut into batches of prompts. A batch belongs to one process and is drawn whole, so the pictures do not
depend on how many processes there are, nor on where a kill fell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from scfg_core.run.record import Run
from views.curves import region_norms, spread

from .arms import ARMS, MAIN, Arm
from .store import Pixels, Record, Store


@dataclass(frozen=True)
class Request:
    """Pictures to be drawn together. `scales`: γ of each; `drawn`: what plain CFG made of them, where asked for."""

    arm: Arm
    indices: list[int]
    scales: list[float]
    drawn: list[Pixels] | None = None


class System(Protocol):
    """A text-to-image model with its prompts, sampler and noise."""

    @property
    def captions(self) -> Sequence[str]:
        """The prompts by index."""
        ...

    def describe(self) -> Record:
        """What the pictures depend on, as plain values."""
        ...

    def draw(self, request: Request) -> tuple[list[Pixels], Run | None]:
        """The pictures (h, w, 3) uint8, and the one run that S-CFG recorded of them; None = it did not watch."""
        ...

    def judge(self, images: Sequence[Pixels], indices: Sequence[int]) -> list[Record]:
        """What can be said of each picture at once, for the record; lists of bool are shares of right answers."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is drawn: `arms` for the first `prompts` captions, the main arms for the first `main_prompts`."""

    arms: tuple[str, ...]
    scales: tuple[float, ...]
    prompts: int
    main_prompts: int
    batch: int

    def units(self) -> Iterator[tuple[int, str, float, range]]:
        """(number of the batch, arm, γ, indices), in an order in which every need is met within a batch."""
        first = _batches(0, self.prompts, self.batch)
        rest = _batches(self.prompts, self.main_prompts, self.batch)
        for batches, arms in ((first, self.arms), (rest, [arm for arm in self.arms if arm in MAIN])):
            for arm in arms:
                for scale in self.scales:
                    for number, batch in batches:
                        yield number, arm, scale, batch

    def count(self, arm: str) -> int:
        """How many prompts an arm draws."""
        return max(self.prompts, self.main_prompts) if arm in MAIN else self.prompts

    def describe(self) -> Record:
        """What must stay the same when the work goes on; more arms, scales or prompts may come later."""
        return {"batch": self.batch}


def _batches(first: int, last: int, size: int) -> list[tuple[int, range]]:
    starts = range(first, last, size)
    return [(start // size, range(start, min(start + size, last))) for start in starts]


def draw_missing(system: System, plan: Plan, store: Store, rank: int = 0, world: int = 1) -> None:
    """Draw and judge whatever the store lacks of this process's share."""
    store.read()
    units = [unit for unit in plan.units() if unit[0] % world == rank]
    with tqdm(total=sum(len(unit[3]) for unit in units), unit="picture", smoothing=0.05, disable=rank > 0) as bar:
        for _, name, scale, batch in units:
            if store.missing(name, scale, batch):
                bar.set_description(f"{name}, γ {scale:g}", refresh=False)
                _draw_batch(system, store, ARMS[name], scale, list(batch))
            bar.update(len(batch))


def _draw_batch(system: System, store: Store, arm: Arm, scale: float, batch: list[int]) -> None:
    scales = [scale] * len(batch)
    if arm.matches is not None:
        scales = [store.found[arm.matches, scale, index]["mean_scale"] for index in batch]
    drawn = [store.image("cfg", scale, index) for index in batch] if arm.regions == "true" else None
    images, run = system.draw(Request(arm, batch, scales, drawn))
    verdicts = system.judge(images, batch)
    records = []
    for place, (index, verdict) in enumerate(zip(batch, verdicts, strict=True)):
        record: Record = {"arm": arm.name, "scale": scale, "index": index, "mean_scale": scales[place]}
        if run is not None and run.evaluations:  # none at a γ without guidance
            record |= strength(run, place)
        records.append(record | verdict)
    store.add(records, images)


def strength(run: Run, image: int) -> Record:
    """Mean of γ·r over a picture and its run, and how unequally its regions were guided (Figure 1)."""
    scales = [float(each.ratio[image].mean()) * each.guidance_scale for each in run.evaluations]
    norms = region_norms(run, image)
    return {
        "mean_scale": sum(scales) / len(scales),
        "spread": spread(norms.rescaled, norms.areas),
        "spread_unscaled": spread(norms.classifier, norms.areas),
    }
