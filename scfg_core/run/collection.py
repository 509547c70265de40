"""How maps are collected, whatever is done with them."""

from dataclasses import dataclass, replace
from typing import get_args

from ..collect.layers import LayerChoice
from ..errors import SettingsError
from ..method.settings import Settings


@dataclass(frozen=True)
class Collection:
    """How maps are collected, whatever is done with them.

    power_weights  weights of S⁰, S¹, …; None = those of the settings.
    layers         of the two deepest levels with attention: "all", the "last" three of each level,
                   or "auto": all where a level has at most six, else its last three. Of a transformer's blocks:
                   "all", the "last" five, or "auto": five between 30 and 50 % of its depth.
    budget_mib     most that the self-attention maps of a layer may take, MiB, > 0; None = 256 on a CPU, a twelfth
                   of a GPU's memory (256 … 2048).
    every          collect at every k-th evaluation, 1…100; between them the last labels serve.
    soft_maps      keep Ĉ of every evaluation (fp16, h·w·L numbers per evaluation).

    Raises `SettingsError` for a value outside its range.
    """

    power_weights: tuple[float, ...] | None = None
    layers: LayerChoice = "auto"
    budget_mib: float | None = None
    every: int = 1
    soft_maps: bool = False

    def __post_init__(self) -> None:
        choices = get_args(LayerChoice)
        if self.layers not in choices:
            raise SettingsError(f"expected layers of {', '.join(choices)}, got {self.layers!r}: choose one")
        if self.budget_mib is not None and not self.budget_mib > 0:
            raise SettingsError(f"expected budget_mib > 0, got {self.budget_mib}: None leaves it to the device")
        if not 1 <= self.every <= 100:
            raise SettingsError(f"expected every from 1 to 100, got {self.every}: 1 collects every time")

    def applied_to(self, settings: Settings) -> Settings:
        """The settings, with this collection's power weights where it has some."""
        return settings if self.power_weights is None else replace(settings, power_weights=self.power_weights)
