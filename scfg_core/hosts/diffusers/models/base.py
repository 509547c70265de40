"""What a diffusers model tells S-CFG: its layers, what it was called with, and where its predictions are."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....collect.calls import LayerCall, Layout
from ....collect.layers import LayerChoice
from ....grid import Grid
from ....prompt import Branch, Prompt
from ..keys import Keys
from ..schedule import Levels, Scheduler, Timestep

Form = Callable[[int, Grid], Layout]
"""Layout of a layer's keys, for a number of text tokens and a grid."""

Raw = Any
"""Predictions as a network returns them: a tensor, or a list of one for every image."""


@dataclass(frozen=True)
class Part:
    """Rows of a call that belong to one branch.

    columns  text columns of a U-Net's layers.
    keys     where text and image stand among the keys of a transformer's layers.
    """

    branch: Branch
    rows: slice
    columns: int = 0
    keys: Keys | None = None


class Sink(Protocol):
    """Receives the calls of the watched layers."""

    def parts(self) -> Sequence[Part]:
        """What the rows of the model's call under way are; () where its attention is not wanted."""
        ...

    def take(self, call: LayerCall) -> None:
        """One call of a layer, or its rows of one branch."""
        ...

    def skip(self, layer: str) -> None:
        """What this layer attends to is not what the model's call says."""
        ...

    def give_up(self, error: Exception) -> None:
        """An error of ours; the layer's output is computed all the same."""
        ...


class Layer(Protocol):
    """A layer that can be watched."""

    def watch(self, sink: Sink) -> Iterator[RemovableHandle]:
        """Hook the layer, hook by hook, so that an error half way loses none."""
        ...


@dataclass(frozen=True)
class ModelCall:
    """What a model is called with.

    source    the noisy images as they were given: by it the second forward of an evaluation is known.
    x         the same as (b, C, H, W); further channels may follow.
    timestep  as given.
    given     every argument by its name.
    """

    source: object
    x: Tensor
    timestep: Timestep
    given: Mapping[str, Any]

    @property
    def rows(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Wording:
    """What the caller knows of the conditional prompt.

    prompt        described token by token.
    names         for a number of columns, the text and the word's number of every one of them.
    start_tokens  columns of START; None = as the model has them.
    """

    prompt: Prompt | None = None
    names: Callable[[int], tuple[tuple[str, ...], tuple[int, ...]]] | None = None
    start_tokens: tuple[int, ...] | None = None


class Model(Protocol):
    """One model, whichever class it is of.

    order      branches of its rows, one after the other; or of its forwards, where they are `separate`.
    separate   whether a pipeline runs the branches in forwards of their own.
    own_scale  whether the pipeline's `guidance_scale` is that of its CFG.
    """

    @property
    def module(self) -> nn.Module: ...

    @property
    def order(self) -> tuple[Branch, Branch]: ...

    @property
    def separate(self) -> bool: ...

    @property
    def own_scale(self) -> bool: ...

    def choose_layers(self, choice: LayerChoice) -> dict[str, Layer]:
        """The chosen layers by name, in the order in which they run."""
        ...

    def levels(self, scheduler: Scheduler) -> Levels:
        """The present schedule. Raises `ScfgError` for a scheduler of another kind."""
        ...

    def scale(self, given: float) -> float:
        """γ of Eq. 7, from what the pipeline calls its guidance scale."""
        ...

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCall | None:
        """What it is called with; None where there is no text."""
        ...

    def describe(self, call: ModelCall, part: Part, wording: Wording, noted: "Noted") -> tuple[Prompt, Part]:
        """The prompt of these rows, and the part with its text columns. Reads new texts off the device."""
        ...

    def copied(self, raw: Raw) -> Raw:
        """A copy that nobody else has."""
        ...

    def predicted(self, call: ModelCall, raw: Raw, scheduler: Scheduler) -> Tensor:
        """The predictions (b, C, H, W), without a learned variance."""
        ...

    def put(self, call: ModelCall, raw: Raw, rows: slice, predicted: Tensor) -> None:
        """Write the predictions of these rows into `raw`."""
        ...

    def velocity(self, predicted: Tensor) -> Tensor:
        """Predictions in the terms of its noise levels."""
        ...

    def undoes(self, call: ModelCall) -> bool:
        """Whether this is a further forward, which the pipeline compares with the conditional prediction."""
        ...


class Noted(Protocol):
    def __call__(self, expected: int, given: int) -> None:
        """The described prompt has another length than the text."""
        ...
