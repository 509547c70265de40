"""How diffusers runs transformers: one joint attention a block, text and image in the network's own order.

What is known of the families themselves stands in `scfg_core/families`; a file beside this one says how its
networks are called. Nothing here imports diffusers: networks are known by the names of their classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ....collect.layers import LayerChoice
from ....errors import ShapeError
from ....families import Family, Text
from ....grid import Grid
from ....prompt import Branch, Prompt, Role
from ..keys import Keys, RowKeys
from ..schedule import FlowSchedule, Scheduler
from ..watching import SeenAttention, watch_attention
from .base import Layer, ModelCall, Noted, Part, Raw, Sink, Wording

TEXTS_KEPT = 8
"""Texts that are remembered: those of both branches, and a few more where a pipeline changes them on its way."""


@dataclass(frozen=True)
class Block:
    """The joint attention of one block.

    alike  whether the mask of the image's queries is the same for all of them, though it is given for each.
    """

    name: str
    attention: nn.Module
    alike: bool = False

    def watch(self, sink: Sink) -> Iterator[RemovableHandle]:
        def observe(seen: SeenAttention) -> None:
            for part in sink.parts():
                if part.keys is not None:
                    sink.take(part.keys.call(self.name, part.branch, part.rows, seen))

        def mask_query() -> int | None:
            keys = sink.parts()[0].keys
            return keys.first if self.alike and keys is not None else None

        yield from watch_attention(
            self.attention,
            lambda: bool(sink.parts()),
            observe,
            lambda: sink.skip(self.name),
            sink.give_up,
            mask_query,
        )


@dataclass(frozen=True)
class RowText:
    """The text of one row of a call.

    columns  how many of its columns stand among the row's keys.
    context  (columns, d).
    mask     (columns,): 0 = padding; None = nothing is.
    masked   whether the attention drops the padding.
    """

    columns: int
    context: Tensor
    mask: Tensor | None = None
    masked: bool = False


ColumnRoles = tuple[int, tuple[Role, ...]]
"""How many text columns a row has, and what they are."""


@dataclass(frozen=True)
class Transformer(ABC):
    """A transformer of diffusers.

    family      what is known of it.
    module      the network as the pipeline calls it.
    blocks      paths of its blocks, in the order in which they run.
    """

    module: nn.Module
    family: Family
    blocks: tuple[str, ...]
    _texts: list[tuple[tuple[object, ...], tuple["ColumnRoles", ...]]] = field(default_factory=list)

    parameters: ClassVar[tuple[str, ...]]
    """Names of what the network is called with, in order."""
    order: ClassVar[tuple[Branch, Branch]]
    separate: ClassVar[bool]
    own_scale: ClassVar[bool] = True
    text_first: ClassVar[bool] = True
    alike: ClassVar[bool] = False

    # layers

    def choose_layers(self, choice: LayerChoice) -> dict[str, Layer]:
        inner = getattr(self.module, "_orig_mod", self.module)
        chosen = self.family.choose_layers(self.blocks, choice)
        return {name: Block(name, inner.get_submodule(f"{name}.{self.attention}"), self.alike) for name in chosen}

    attention: ClassVar[str] = "attn"
    """Name of the joint attention of a block."""

    # the call

    def levels(self, scheduler: Scheduler) -> FlowSchedule:
        return FlowSchedule.of(scheduler)

    def scale(self, given: float) -> float:
        return given

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(zip(self.parameters, args, strict=False)) | dict(kwargs)

    @abstractmethod
    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> ModelCall | None: ...

    def undoes(self, call: ModelCall) -> bool:
        return False

    # the keys

    @abstractmethod
    def grid(self, call: ModelCall) -> Grid:
        """Patches of the image."""

    @abstractmethod
    def sources(self, call: ModelCall, rows: slice) -> tuple[object, ...]:
        """The objects that the text of these rows was given as; while they are the same, so is the text."""

    @abstractmethod
    def texts(self, call: ModelCall, rows: slice) -> list[RowText]:
        """The text of these rows."""

    def references(self, call: ModelCall) -> int:
        """How many keys of reference images follow the image's."""
        return 0

    def describe(self, call: ModelCall, part: Part, wording: Wording, noted: Noted) -> tuple[Prompt, Part]:
        """Words are those of one prompt: rows of several prompts have none."""
        if part.branch == "uncond":
            wording = Wording(start_tokens=wording.start_tokens)
        grid = self.grid(call)
        found = self._columns(call, part, wording)
        other = next((text for text in found if text != found[0]), None)
        described = None if wording.prompt is None else wording.prompt.num_tokens
        if wording.names is not None and other is not None:
            described, wording = len(found[0][1]), replace(wording, names=None)
            found = self._columns(call, part, wording)
        keys = self._keys(call, part, grid, found, wording)
        length = len(keys.roles)
        if wording.names is not None:
            return Prompt(part.branch, keys.roles, *wording.names(length)), replace(part, keys=keys)
        if wording.prompt is not None and other is None and described == length:
            roles = wording.prompt.roles if wording.start_tokens is None else keys.roles
            return replace(wording.prompt, branch=part.branch, roles=roles), replace(part, keys=keys)
        if described is not None:
            noted(described, length if other is None else len(other[1]))
        return Prompt(part.branch, keys.roles), replace(part, keys=keys)

    def _keys(
        self, call: ModelCall, part: Part, grid: Grid, found: Sequence["ColumnRoles"], wording: Wording
    ) -> Keys:
        order = {"text_first": self.text_first, "behind": self.references(call)}
        rows = [
            RowKeys(self.family.layout(columns, grid, **order), _started(roles, wording.start_tokens))
            for columns, roles in found
        ]
        count = max(self.family.layout(columns, grid, **order).keys for columns in self.columns(call))
        return Keys.of(rows, grid, count, call.x.device)

    @abstractmethod
    def columns(self, call: ModelCall) -> list[int]:
        """How many text columns stand among the keys of every row of the call."""

    def _columns(self, call: ModelCall, part: Part, wording: Wording) -> tuple["ColumnRoles", ...]:
        """Columns of these rows and their roles; read off the device once for a text."""
        sources = (wording.names, *self.sources(call, part.rows))
        for known, found in self._texts:
            if len(known) == len(sources) and all(a is b for a, b in zip(known, sources, strict=True)):
                return found
        found = tuple((text.columns, self._roles(text, wording)) for text in self.texts(call, part.rows))
        self._texts.append((sources, found))
        del self._texts[:-TEXTS_KEPT]
        return found

    def _roles(self, text: RowText, wording: Wording) -> tuple[Role, ...]:
        words = () if wording.names is None else wording.names(text.columns)[1]
        mask = None if text.mask is None else text.mask[None]
        extra = {"attention_mask": mask} if text.masked else {}
        return self.family.read(Text(text.context[None], extra, mask, words=words, framed=bool(words))).roles

    # predictions

    def copied(self, raw: Raw) -> Raw:
        return raw.clone()

    def predicted(self, call: ModelCall, raw: Raw, scheduler: Scheduler) -> Tensor:
        return raw

    def put(self, call: ModelCall, raw: Raw, rows: slice, predicted: Tensor) -> None:
        raw[rows] = predicted

    def velocity(self, predicted: Tensor) -> Tensor:
        return predicted


def packed(latent: Tensor) -> Tensor:
    """(b, C, 2h, 2w) → (b, h·w, 4C), as pipelines pack latents for a network whose patches they make."""
    return rearrange(latent, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)


def unpacked(tokens: Tensor, grid: Grid) -> Tensor:
    """(b, h·w, 4C) → (b, C, 2h, 2w)."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=grid.h, p=2, q=2)


def block_paths(module: nn.Module, *lists: str) -> tuple[str, ...]:
    """Paths of the blocks in these lists, in order."""
    return tuple(f"{name}.{index}" for name in lists for index in range(len(getattr(module, name))))


def _started(roles: tuple[Role, ...], starts: Sequence[int] | None) -> tuple[Role, ...]:
    """The roles with these columns as START, where the caller gave some."""
    if starts is None:
        return roles
    if not all(0 <= start < len(roles) for start in starts):
        raise ShapeError(
            f"expected start_tokens from 0 to {len(roles) - 1}, got {tuple(starts)}: "
            "give the columns of START in the prompt, or () for none"
        )
    return tuple(
        "start" if column in starts else "word" if role == "start" else role for column, role in enumerate(roles)
    )
