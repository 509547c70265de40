"""What a model family tells S-CFG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from ....collect.calls import Layout
from ....collect.layers import LayerChoice
from ....families import Columns, Text
from ....grid import Grid


@dataclass(frozen=True)
class ModelCall:
    """One call of the model, before it runs.

    x        (b, C, H, W) or (b, C, T, H, W).
    context  text that it attends to, (b, L, d).
    extra    the other arguments that its conditionings gave it.
    """

    x: Tensor
    context: Tensor
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AttentionCall:
    """A call of the host's attention function, or of a function that replaces it.

    layer     the layer that runs.
    q, k      (b, H, n, d) and (b, H, m, d).
    options   `transformer_options` of this call.
    model     the call of the model that it is part of.
    slot      "attn1" or "attn2" where a replace function of that name is called.
    repeated  how many calls of the same layer came before in this call of the model.
    """

    layer: str
    q: Tensor
    k: Tensor
    options: dict[str, Any]
    model: ModelCall
    slot: str | None = None
    repeated: int = 0


@dataclass(frozen=True)
class Site:
    """What a call's queries and keys are; `queries`: which of the queries are the image's, None = all."""

    grid: Grid
    layout: Layout
    queries: range | None = None


class Architecture(Protocol):
    """One model family.

    name           for the status line.
    experimental   whether its layers and roles still await real weights.
    takes_frames   whether it sees latents (B, C, T, H, W) frame by frame.
    marked_blocks  (kind, index) of the blocks that have to be marked, for the host does not say which one runs.
    """

    @property
    def name(self) -> str: ...

    @property
    def experimental(self) -> bool: ...

    @property
    def takes_frames(self) -> bool: ...

    @property
    def marked_blocks(self) -> Sequence[tuple[str, int]]: ...

    @classmethod
    def of(cls, module: Any) -> "Architecture | None":
        """The family as it is in this module; None where the module is of another one."""
        ...

    def choose_layers(self, choice: LayerChoice) -> list[str]:
        """Names of the chosen layers, in the order in which they run."""
        ...

    def num_columns(self, context: Tensor, extra: Mapping[str, Any]) -> int:
        """How many text columns a call with these arguments has in the attention."""
        ...

    def read(self, text: Text) -> Columns:
        """What the text columns of a prompt are. May read the text off the device."""
        ...

    def layer_of(self, options: dict[str, Any], calls: int) -> str | None:
        """Name of the layer that `transformer_options` describe, after `calls` other calls; None = none."""
        ...

    def locate(self, call: AttentionCall) -> Site | None:
        """Where a call of a known layer comes from; None where nothing is to be observed of it."""
        ...

    def allows_mask(self, mask: Tensor, call: ModelCall) -> bool:
        """Whether an attention mask says no more than which text columns are dead."""
        ...
