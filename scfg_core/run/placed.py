"""The maps of an evaluation's prompts, each where its prompt acts in the image."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace

import torch

from ..collect.collector import Collector
from ..method.entries import EntryMaps
from ..method.fusion import TokenMaps
from .predictions import Placement
from .record import Facts


class PlacedMaps:
    """What a collector has of prompts that act somewhere."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def seen(self, places: Sequence[Placement]) -> list[Placement]:
        """Those that act now and have maps."""
        return [place for place in places if place.active and self._collector.layers_seen(place.prompt) > 0]

    def tokens(self, places: Sequence[Placement], device: torch.device) -> list[EntryMaps]:
        """Maps of all tokens, for Eq. 9."""
        return [self._entry(place, self._collector.token_maps, device) for place in places]

    def foregrounds(self, places: Sequence[Placement], device: torch.device) -> list[EntryMaps]:
        """Maps for Eq. 14."""
        return [self._entry(place, self._collector.foreground_maps, device) for place in places]

    def have_start(self, places: Sequence[Placement]) -> bool:
        """Whether one of the prompts has START."""
        return any(self._collector.prompt(place.prompt).start_tokens for place in places)

    def facts(self, places: Sequence[Placement]) -> Facts:
        """What the maps of the positive prompts were made of."""
        return Facts(
            layers=max(self._collector.layers_seen(place.prompt) for place in places),
            grids=self._collector.grids_seen(),
            tokens=sum(self._collector.prompt(place.prompt).num_tokens for place in places),
            prompts=len(places),
            backend=self._collector.backend or "pytorch",
        )

    def _entry(self, place: Placement, maps: Callable[[Hashable], TokenMaps], device: torch.device) -> EntryMaps:
        tokens = maps(place.prompt)
        if tokens.values.device != device:
            tokens = replace(tokens, values=tokens.values.to(device))
        return EntryMaps(tokens, self._collector.prompt(place.prompt), place.area, place.weight)
