"""The arms of an experiment: every way of guiding that is compared, the controls among them.

A gain of S-CFG over CFG at the same γ proves little alone: S-CFG changes the mean strength too, and any uneven
strength might do. Hence the controls. `matched` is CFG at the mean strength that S-CFG had on the very picture.
The mean-preserving arms all have CFG's own mean strength and differ only in the regions: those of the attention,
the same shuffled over the picture (same sizes, no meaning), every patch its own (point-wise norm equalising, which
needs no attention), and the true regions of CFG's picture (the ceiling).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from scfg_core import Settings, uniform_powers

Regions = Literal["attention", "shuffled", "true"]


@dataclass(frozen=True)
class Arm:
    """One way of guiding.

    name      a slug; names folders.
    settings  of S-CFG; None = plain CFG.
    matches   the arm whose mean ratio on the same picture multiplies γ.
    regions   "attention": S-CFG's own; "shuffled": these with their patches permuted; "true": those of the picture
              that plain CFG drew, where the system knows them.
    control   the arm that it is compared with beside CFG at the same γ.
    """

    name: str
    settings: Settings | None = None
    matches: str | None = None
    regions: Regions = "attention"
    control: str | None = None

    @property
    def needs(self) -> str | None:
        """The arm that must have drawn the same picture before."""
        return "cfg" if self.regions == "true" else self.matches


_DEFAULT = Settings.preset("default")
_EVEN = replace(_DEFAULT, mean_preserving=True)

ARMS = {
    arm.name: arm
    for arm in (
        Arm("cfg"),
        Arm("default", _DEFAULT, control="matched"),
        Arm("matched", matches="default"),
        Arm("paper", Settings.preset("paper")),
        Arm("authors", Settings.preset("authors")),
        Arm("no-self-attention", replace(_DEFAULT, power_weights=(1.0,))),
        Arm("one-power", replace(_DEFAULT, power_weights=uniform_powers(1))),
        Arm("mean-benchmark", replace(_DEFAULT, benchmark="all")),
        Arm("mean-preserving", _EVEN),
        Arm("even-shuffled", _EVEN, regions="shuffled", control="mean-preserving"),
        Arm("even-patches", replace(_EVEN, regions="patch"), control="mean-preserving"),
        Arm("even-true", _EVEN, regions="true", control="mean-preserving"),
    )
}
"""In an order in which every arm comes after those that it needs."""

MAIN = ("cfg", "default", "matched")
"""The arms that are drawn for more prompts than the others, for a Fréchet distance."""
