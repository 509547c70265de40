"""What a host knows of the text of one prompt, and what its columns turn out to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..prompt import Role


@dataclass(frozen=True)
class Text:
    """What the host knows of the text of one prompt.

    context  (b, L, d).
    extra    the other arguments that the prompt gives the model, `attention_mask` among them.
    mask     (b, L) of integers that the encoder made, 0 = padding; None = none.
    starts   columns of START that the encoder named.
    words    number of the word of every token of the encoder, −1 = of no word; () = not named.
    framed   whether the host put a text of its own around the prompt, which the words leave out.
    """

    context: Tensor
    extra: Mapping[str, Any] = field(default_factory=dict)
    mask: Tensor | None = None
    starts: tuple[int, ...] = ()
    words: tuple[int, ...] = ()
    framed: bool = False


@dataclass(frozen=True)
class Columns:
    """Role of every text column, and the column at which the encoder's first token stands; negative where the
    encoder cut some off."""

    roles: tuple[Role, ...]
    first: int = 0


def empty_columns(context: Tensor) -> list[bool]:
    """Which columns of a context (b, L, d) are exact zeros in every image."""
    return (context == 0).all(dim=-1).all(dim=0).tolist()


def kept_columns(mask: Tensor | None, length: int) -> list[bool]:
    """Which columns any image keeps; a mask of another length says nothing."""
    if mask is None or mask.is_floating_point() or mask.shape[-1] != length:
        return [True] * length
    return (mask.reshape(-1, length) != 0).any(dim=0).tolist()


def names_word(words: Sequence[int], token: int) -> bool:
    return 0 <= token < len(words) and words[token] >= 0
