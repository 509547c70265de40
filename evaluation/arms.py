"""The arms of an experiment: every way of guiding that is compared, the controls among them.

A gain of S-CFG over CFG at the same γ proves little alone: S-CFG changes the mean strength too, and any uneven
strength might do. Hence the controls. `matched` is CFG at the mean strength that S-CFG had on the very image.
The mean-preserving arms all have CFG's own mean strength and differ only in the regions: those of the attention,
the same shuffled over the image (same sizes, no meaning), every patch its own (point-wise norm equalising, which
needs no attention), and the true regions of CFG's image.
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
    matches   the arm whose mean ratio on the same image multiplies γ.
    regions   "attention": S-CFG's own; "shuffled": these with their patches permuted; "true": those of the image
              that plain CFG drew, where the system knows them.
    rescale   φ of RescaleCFG (arXiv 2305.08891, §3.4); 0 = off.
    projected adaptive projected guidance (APG, arXiv 2410.02416) in place of CFG's formula.
    control   the arm that it is compared with beside CFG at the same γ.
    """

    name: str
    settings: Settings | None = None
    matches: str | None = None
    regions: Regions = "attention"
    rescale: float = 0.0
    projected: bool = False
    control: str | None = None

    @property
    def needs(self) -> str | None:
        """The arm that must have drawn the same image before."""
        return "cfg" if self.regions == "true" else self.matches


RESCALE = 0.7
_DEFAULT = Settings.preset("default")
_EVEN = replace(_DEFAULT, mean_preserving=True)

ARMS = {
    arm.name: arm
    for arm in (
        Arm("cfg"),
        Arm("default", _DEFAULT, control="matched"),
        Arm("matched", matches="default"),
        Arm("mean-preserving", _EVEN),
        Arm("patches", replace(_EVEN, regions="patch"), control="mean-preserving"),
        Arm("shuffled", _EVEN, regions="shuffled", control="mean-preserving"),
        Arm("paper", Settings.preset("paper")),
        Arm("authors", Settings.preset("authors")),
        Arm("true-regions", _EVEN, regions="true", control="mean-preserving"),
        Arm("no-self-attention", replace(_DEFAULT, power_weights=uniform_powers(0)), control="default"),
        Arm("one-power", replace(_DEFAULT, power_weights=uniform_powers(1)), control="default"),
        Arm("mean-benchmark", replace(_DEFAULT, benchmark="all"), control="default"),
        Arm("down-only", replace(_DEFAULT, ratio_min=0.3, ratio_max=1.0), control="default"),
        Arm("up-only", replace(_DEFAULT, ratio_min=1.0), control="default"),
        Arm("early", replace(_DEFAULT, end=0.5), control="default"),
        Arm("late", replace(_DEFAULT, start=0.5), control="default"),
        Arm("rescale", rescale=RESCALE),
        Arm("rescale-default", _DEFAULT, rescale=RESCALE, control="rescale"),
        Arm("apg", projected=True),
        Arm("apg-default", _DEFAULT, projected=True, control="apg"),
    )
}
"""In an order in which every arm comes after those that it needs."""

MAIN = ("cfg", "default", "matched", "mean-preserving", "patches", "shuffled")
"""The arms that are drawn first, and for more prompts than the others."""
