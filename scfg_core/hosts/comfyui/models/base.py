"""What a model family tells S-CFG."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ....collect.calls import Layout
from ....collect.layers import LayerInfo
from ....grid import Grid


@dataclass(frozen=True)
class AttentionCall:
    """A call of the host's attention function, or of a function that replaces it.

    q, k      (b, H, n, d) and (b, H, m, d).
    options   `transformer_options` of this call.
    tokens    text tokens that the model was given, repeats included.
    slot      "attn1" or "attn2" where a replace function of that name is called.
    repeated  how many calls of the same layer came before in this call of the model.
    """

    q: Tensor
    k: Tensor
    options: dict[str, Any]
    tokens: int
    slot: str | None = None
    repeated: int = 0


@dataclass(frozen=True)
class Site:
    """Where a call comes from, and what its keys are."""

    layer: str
    grid: Grid
    layout: Layout


class Architecture(Protocol):
    """One model family."""

    @property
    def layers(self) -> Sequence[LayerInfo]:
        """Its layers with attention to the text, in the order in which they run."""
        ...

    @classmethod
    def of(cls, module: Any) -> "Architecture | None":
        """The family as it is in this module; None where the module is of another one."""
        ...

    def layer_of(self, options: dict[str, Any]) -> str | None:
        """Name of the layer that `transformer_options` describe; None where they describe none."""
        ...

    def locate(self, call: AttentionCall) -> Site:
        """Where a call of a known layer comes from."""
        ...

    def start_tokens(self, length: int, given: Sequence[int]) -> tuple[int, ...]:
        """Columns of START among `length` tokens, of which the encoder named `given`; () = the family has none."""
        ...
