"""Every constant of the method, as one frozen object; a preset is a row of values."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from ..errors import SettingsError

Renormalise = Literal["after_fusion", "per_layer"]
ForegroundRule = Literal["start_vs_rest", "argmax"]
Benchmark = Literal["foreground", "all"]
Regions = Literal["semantic", "patch"]
Cap = Literal["none", "hard", "soft"]

GUIDANCE_CEILING = 15.0
"""γ that the caps hold a region to (the authors' sampler)."""

MAX_POWERS = 9
_PAPER_POWERS = (0.0, 0.25, 0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Settings:
    """What S-CFG computes (arXiv 2404.05384; equation numbers are the paper's).

    power_weights   weights of S⁰, S¹, S², … in the propagation (Eq. 10); each ≥ 0, sum 1, at most 9.
                    (1,) = no self-attention, (0, 1) = R of 1, (0, ¼, ¼, ¼, ¼) = the paper's R of 4.
    renormalise     divide each token's map by its spatial mean "after_fusion" of the layers, or "per_layer".
    smooth_maps     3×3 blur of the token maps before they are renormalised.
    foreground_rule "start_vs_rest": START against the sum of all others (Eq. 14 as the authors compute it);
                    "argmax": foreground is where START does not win among all tokens.
    benchmark       guidance strength that all regions are brought to: that of the "foreground", or of "all".
    regions         "semantic": one region per token; "patch": every patch its own (point-wise control).
    ratio_min, ratio_max  clamp of γ_i/γ; 0…1 and 1…∞.
    cap             "hard": r ≤ 15/γ; "soft": r ≤ max(1, 15/γ); "none".
    smooth_ratio    3×3 blur of the ratio map.
    mean_preserving divide the ratio map by its mean, per image.
    strength        0…1: r ← 1 + strength·(r − 1); 0 is plain CFG.
    min_region      0…1 of the image: smaller parts and holes of a hard mask from words are dropped; 0 = none. It
                    changes no guidance.
    start, end      part of the schedule in which S-CFG acts; 0…1, start ≤ end.

    Raises `SettingsError` for a value outside its range.
    """

    power_weights: tuple[float, ...] = _PAPER_POWERS
    renormalise: Renormalise = "after_fusion"
    smooth_maps: bool = False
    foreground_rule: ForegroundRule = "start_vs_rest"
    benchmark: Benchmark = "foreground"
    regions: Regions = "semantic"
    ratio_min: float = 0.8
    ratio_max: float = 3.0
    cap: Cap = "soft"
    smooth_ratio: bool = True
    mean_preserving: bool = False
    strength: float = 1.0
    start: float = 0.0
    end: float = 1.0
    min_region: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "power_weights", tuple(float(weight) for weight in self.power_weights))
        _check_powers(self.power_weights)
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise SettingsError(
                    f"expected {name} to be one of {', '.join(choices)}, got {value!r}: choose one of these"
                )
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # a NaN fails both comparisons
                raise SettingsError(
                    f"expected {name} from {low:g} to {high:g}, got {value}: set {name} inside this range"
                )
        if self.start > self.end:
            raise SettingsError(
                f"expected start ≤ end, got start {self.start}, end {self.end}: swap the two, or widen the range"
            )

    @classmethod
    def preset(cls, name: str) -> "Settings":
        """The row of values called `name`: "default", "paper", "authors" or "balanced"."""
        if name not in PRESETS:
            raise SettingsError(
                f"expected a preset named {', '.join(PRESETS)}, got {name!r}: "
                "choose one of these, or build Settings(…) yourself"
            )
        return PRESETS[name]

    def active_at(self, progress: float) -> bool:
        """Whether S-CFG changes the guidance at `progress` 0…1 of the schedule."""
        return self.strength > 0 and self.start <= progress <= self.end


_CHOICES = {
    "renormalise": get_args(Renormalise),
    "foreground_rule": get_args(ForegroundRule),
    "benchmark": get_args(Benchmark),
    "regions": get_args(Regions),
    "cap": get_args(Cap),
}
_RANGES = {
    "ratio_min": (0.0, 1.0),
    "ratio_max": (1.0, math.inf),
    "strength": (0.0, 1.0),
    "start": (0.0, 1.0),
    "end": (0.0, 1.0),
    "min_region": (0.0, 1.0),
}


def _check_powers(weights: tuple[float, ...]) -> None:
    valid = 1 <= len(weights) <= MAX_POWERS and all(weight >= 0 for weight in weights)
    if not (valid and math.isclose(sum(weights), 1.0, abs_tol=1e-6)):
        raise SettingsError(
            f"expected 1 to {MAX_POWERS} power_weights of S⁰, S¹, …, each ≥ 0, with sum 1, got {weights}: "
            "the paper's R of 4 is (0, 0.25, 0.25, 0.25, 0.25)"
        )


def uniform_powers(steps: int) -> tuple[float, ...]:
    """Weights of (1/R) Σ_{r=1..R} Sʳ (Eq. 10) for R = `steps`, 1 to 8; 0 gives (1,): no self-attention."""
    if not 0 <= steps < MAX_POWERS:
        raise SettingsError(f"expected 0 to {MAX_POWERS - 1} power steps R, got {steps}: the paper's R is 4")
    return (1.0,) if steps == 0 else (0.0, *[1 / steps] * steps)


PRESETS = {
    "default": Settings(),
    "paper": Settings(ratio_min=0.0, ratio_max=math.inf, cap="none", smooth_ratio=False, min_region=0.0),
    "authors": Settings(
        power_weights=(0.0, 0.25, 0.75), renormalise="per_layer", smooth_maps=True, cap="hard", min_region=0.0
    ),
    "balanced": Settings(mean_preserving=True),
}
"""`default` is frozen at the first release; better values later get a new name."""

SETTING_NAMES = tuple(field.name for field in fields(Settings))
