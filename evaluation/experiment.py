"""Drawing an experiment: every prompt, from the same noise, by each arm at each guidance scale γ.

Work is cut into batches of prompts. A batch belongs to one process and is drawn whole, so the images do not
depend on how many processes there are, nor on where a kill fell. All arms draw a batch before the next one begins:
whenever the work ends, every arm has been drawn for the same prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tqdm import tqdm

from scfg_core.run.record import Run

from .arms import ARMS, MAIN, Arm
from .store import Pixels, Record, Store
from .strength import strengths

UNGUIDED = 1.0
"""γ at which the conditional prediction stands alone: every arm is plain CFG, and only that is drawn."""


@dataclass(frozen=True)
class Request:
    """Images to be drawn together. `scales`: γ of each; `drawn`: what plain CFG made of them, where asked for."""

    arm: Arm
    indices: list[int]
    scales: list[float]
    drawn: list[Pixels] | None = None


@dataclass(frozen=True)
class Drawn:
    """Images (h, w, 3) uint8; the one run that S-CFG recorded of them, None = it did not watch; and what else is
    known of every image, for its record: lists of bool are shares of right answers."""

    images: list[Pixels]
    run: Run | None = None
    known: list[Record] = field(default_factory=list)


class System(Protocol):
    """A text-to-image model with its prompts, sampler and noise."""

    @property
    def captions(self) -> Sequence[str]:
        """The prompts by index."""
        ...

    def describe(self) -> Record:
        """What the images depend on, as plain values."""
        ...

    def draw(self, request: Request) -> Drawn:
        """Draw a batch."""
        ...


@dataclass(frozen=True)
class Plan:
    """What is drawn: `arms` for the first `prompts` captions, the main arms for the first `main_prompts`."""

    arms: tuple[str, ...]
    scales: tuple[float, ...]
    prompts: int
    main_prompts: int
    batch: int

    def cells(self, arms: Sequence[str]) -> list[tuple[str, float]]:
        """(arm, γ), every arm after those that it needs."""
        return [(arm, scale) for arm in arms for scale in self.scales if arm == "cfg" or scale > UNGUIDED]

    def units(self) -> Iterator[tuple[int, str, float, range]]:
        """(number of the batch, arm, γ, indices): the main arms first, then the others."""
        main = [arm for arm in self.arms if arm in MAIN]
        others = [arm for arm in self.arms if arm not in MAIN]
        for arms, count in ((main, max(self.prompts, self.main_prompts)), (others, self.prompts)):
            for start in range(0, count, self.batch):
                for arm, scale in self.cells(arms):
                    yield start // self.batch, arm, scale, range(start, min(start + self.batch, count))

    def count(self, arm: str) -> int:
        """How many prompts an arm draws."""
        return max(self.prompts, self.main_prompts) if arm in MAIN else self.prompts

    def describe(self) -> Record:
        """What must stay the same when the work goes on; more arms, scales or prompts may come later."""
        return {"batch": self.batch}


def draw_missing(system: System, plan: Plan, store: Store, rank: int = 0, world: int = 1) -> None:
    """Draw whatever the store lacks of this process's share."""
    store.read()
    units = [unit for unit in plan.units() if unit[0] % world == rank]
    with tqdm(total=sum(len(unit[3]) for unit in units), unit="image", smoothing=0.05, disable=rank > 0) as bar:
        for _, name, scale, batch in units:
            if store.missing(name, scale, batch):
                bar.set_description(f"{name}, γ {scale:g}", refresh=False)
                _draw_batch(system, store, ARMS[name], scale, list(batch))
            bar.update(len(batch))


def _draw_batch(system: System, store: Store, arm: Arm, scale: float, batch: list[int]) -> None:
    scales = [scale] * len(batch)
    if arm.matches is not None:
        scales = [store.found[arm.matches, scale, index]["mean_scale"] for index in batch]
    before = [store.image("cfg", scale, index) for index in batch] if arm.regions == "true" else None
    drawn = system.draw(Request(arm, batch, scales, before))
    records: list[Record] = [
        {"arm": arm.name, "scale": scale, "index": index, "mean_scale": mean}
        for index, mean in zip(batch, scales, strict=True)
    ]
    for more in (strengths(drawn.run), drawn.known):
        for record, found in zip(records, more, strict=False):
            record |= found
    store.add(records, drawn.images)
