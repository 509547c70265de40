"""S-CFG on one model: what happens before and after each of its calls, and how it is undone."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...collect.calls import LayerCall
from ...errors import ScfgError
from ...method.guidance import rescale
from ...method.segment import Segmentation
from ...method.settings import Settings
from ...prompt import Branch
from ...run.guard import guarded
from ...run.notes import Note
from ...run.record import Run
from ...run.session import Collection, Placement, Predictions, Session
from ...run.weights import WordWeights
from .layout import is_pair
from .models import Layer, Model, ModelCall, Part, Raw, Wording
from .schedule import Levels, Scheduler
from .watching import set_aside_for

COND: Branch = "cond"
UNCOND: Branch = "uncond"

_attached: WeakSet[nn.Module] = WeakSet()


@dataclass
class _Call:
    """A guided call of the model that is under way, or the first of two forwards that is over.

    raw  what it predicted, in a copy of ours, which the pipeline holds.
    """

    given: ModelCall
    parts: tuple[Part, ...]
    time: float
    scale: float
    wanted: bool
    raw: Raw = None


@dataclass
class Attachment:
    """S-CFG on `model`; use it in a `with` statement, or call `detach()`. `scfg` makes it and explains its fields.

    scale, scheduler  γ and the scheduler, asked at every call.
    """

    model: Model
    run: Run
    settings: Settings
    collection: Collection
    scale: Callable[[], float]
    scheduler: Callable[[], Scheduler]
    wording: Wording = field(default_factory=Wording)
    word_weights: WordWeights | Mapping[str, float] | Mapping[int, float] | None = None
    resegment: Callable[[Segmentation], Segmentation] | None = None
    _hooks: list[RemovableHandle] = field(default_factory=list)
    _compiler: AbstractContextManager[object] | None = None
    _call: _Call | None = None
    _first: _Call | None = None
    _change: Tensor | None = None
    _undoing: bool = False
    _levels: Levels | None = None
    _time: float = math.inf
    _shape: tuple[int, ...] = ()
    _pair: bool = False
    _begun: bool = False

    def __post_init__(self) -> None:
        self._session = self._new_session()

    def _new_session(self) -> Session:
        return Session(
            self.settings, self.collection, self.run, word_weights=self.word_weights, resegment=self.resegment
        )

    def __enter__(self) -> Run:
        return self.run

    def __exit__(self, *error: object) -> None:
        self.detach()

    def attach(self, layers: Sequence[Layer]) -> None:
        """Hook the model and these layers. Raises `ScfgError` where S-CFG is attached already."""
        module = self.model.module
        if module in _attached:
            raise ScfgError("expected a model without S-CFG, got one that has it: detach it first")
        _attached.add(module)
        self._compiler = set_aside_for(module)
        try:
            self._hooks.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self._hooks.append(module.register_forward_hook(self._after))
            for layer in layers:
                for hook in layer.watch(self):
                    self._hooks.append(hook)
        except BaseException:
            self.detach()
            raise

    def detach(self) -> None:
        """Undo everything and close the run; harmless when called again."""
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._compiler is not None:
            self._compiler.__exit__(None, None, None)
            self._compiler = None
        _attached.discard(self.model.module)
        self._drop_first()
        self._call = self._levels = self._change = None
        self._session.end_evaluation()
        self.run.close()

    # what the layers ask

    def parts(self) -> Sequence[Part]:
        call = self._call
        return call.parts if call is not None and call.wanted and self._session.observing else ()

    def take(self, call: LayerCall) -> None:
        self._session.observe(call)

    def skip(self, layer: str) -> None:
        self._session.skip_layer(layer, [part.branch for part in self.parts()])

    def give_up(self, error: Exception) -> None:
        """Plain CFG for the rest of the sampling."""
        self._session.give_up(error)

    # before a call

    @guarded
    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin an evaluation, or go on with it, where this call is one under guidance."""
        self._call, self._undoing = None, False
        given, scale = self.model.read(args, kwargs), self.scale()
        if given is None:
            self.run.note(Note.NO_TEXT)
        elif self.model.undoes(given):
            self._undoing = True
        elif scale <= 1:
            self.run.note(Note.NO_GUIDANCE)
        elif self.model.separate:
            self._call = self._next_forward(given, scale)
        elif given.rows % 2:
            self.run.note(Note.NO_GUIDANCE)
        elif not self._advance(given):
            self.run.note(Note.NOT_A_PAIR)
        else:
            half = given.rows // 2
            parts = [
                Part(branch, slice(place * half, (place + 1) * half))
                for place, branch in enumerate(self.model.order)
            ]
            self._call = self._declared(given, parts, scale, begins=True)

    def _next_forward(self, given: ModelCall, scale: float) -> _Call:
        """The first forward of an evaluation, or the second: the one with the same noisy images."""
        whole, first = slice(0, given.rows), self._first
        if first is not None and first.raw is not None and first.given.source is given.source:
            return self._declared(given, [Part(self.model.order[1], whole)], first.scale, begins=False)
        self._drop_first()
        self._advance(given)
        self._first = self._declared(given, [Part(self.model.order[0], whole)], scale, begins=True)
        return self._first

    def _drop_first(self) -> None:
        """A forward that no other one followed is no guidance."""
        if self._first is not None:
            self._first = None
            self._session.end_evaluation()
            self.run.note(Note.NO_NEGATIVE)

    def _declared(self, given: ModelCall, parts: Sequence[Part], scale: float, begins: bool) -> _Call:
        described = [self.model.describe(given, part, self.wording, self._other_length) for part in parts]
        prompts = {prompt.branch: prompt for prompt, _ in described}
        if begins:
            self._session.begin(prompts)
        else:
            self._session.declare(prompts)
        wanted = any(self._session.needs_maps(branch) for branch in prompts)
        return _Call(given, tuple(part for _, part in described), self._time, scale, wanted)

    def _other_length(self, expected: int, given: int) -> None:
        self.run.note(Note.OTHER_LENGTH, expected=expected, given=given)

    def _advance(self, given: ModelCall) -> bool:
        """Keep track of the sampling; whether it is one under CFG, which is asked once for a sampling and shape.

        Where the timesteps were set anew or the noise level rises, another sampling has begun: nothing of the last
        one may reach it.
        """
        scheduler = self.scheduler()
        begun = self._levels is None or not self._levels.belongs_to(scheduler)
        levels = self.model.levels(scheduler) if self._levels is None or begun else self._levels
        time = levels.time_of(given.timestep, scheduler)
        begun = begun or time > self._time
        if begun or self._shape != tuple(given.x.shape):
            self._pair = self.model.separate or is_pair(given.x)
        self._levels, self._time, self._shape = levels, time, tuple(given.x.shape)
        self._begun = self._begun or begun
        if self._pair and self._begun:
            self._begun = False
            if self.run.schedule:
                self.run.restart()
                self._session = self._new_session()
            self.run.schedule = levels.sigmas()
            if self._compiler is not None:
                self.run.note(Note.UNCOMPILED)
        return self._pair

    # after it

    @torch.no_grad()
    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The output with its conditional rows rescaled; None leaves it as it is."""
        call, self._call = self._call, None
        if call is None:
            changed = self._undone(output[0]) if self._undoing else None
        elif call is self._first:
            changed = self._held(call, output[0])
        else:
            first, self._first = self._first, None
            changed = self._guided(first or call, call, output[0])
            changed = None if first is not None else changed  # the pipeline holds it already
            self._session.end_evaluation()
        return None if changed is None else _with_predictions(output, changed)

    @guarded
    def _held(self, call: _Call, raw: Raw) -> Raw:
        """What the pipeline gets of the first of two forwards; after the second, ε' is written into it."""
        call.raw = self.model.copied(raw)
        return call.raw

    @guarded
    def _guided(self, first: _Call, last: _Call, raw: Raw) -> Raw | None:
        """The predictions with ε' in place of ε(x, c), in the network's terms: a copy, or what the pipeline holds
        of the first forward. A learned variance stays as it is."""
        levels, model = self._levels, self.model
        if levels is None:
            return None
        held = model.copied(raw) if first is last else first.raw
        rows = {part.branch: part.rows for part in (*first.parts, *last.parts)}
        all_rows = {COND: held, UNCOND: raw} if model.order[0] == COND else {UNCOND: held, COND: raw}
        uncond, cond = (
            model.predicted(first.given, all_rows[branch], self.scheduler())[rows[branch]]
            for branch in (UNCOND, COND)
        )
        level, progress = levels.level(first.time), levels.progress(first.time)
        predictions = Predictions(
            x=first.given.x[rows[COND], : cond.shape[1]],
            cond=model.velocity(cond),
            uncond=model.velocity(uncond),
            noise=level,
            sigma=levels.sigma(first.time),
            guidance_scale=first.scale,
            active=self.settings.active_at(progress),
            within=lambda start, end: start <= progress <= end,
        )
        ratio = self._session.ratio(predictions, [Placement(COND)], [Placement(UNCOND)])
        self._change = None
        if ratio is None:
            return None
        changed = rescale(cond, uncond, ratio)
        self._change = changed - cond
        model.put(first.given, held, rows[COND], changed)
        return held

    @guarded
    def _undone(self, raw: Raw) -> Raw | None:
        """A prediction from which the pipeline takes the distance of the conditional one, moved as that one was."""
        change = self._change
        if change is None or not isinstance(raw, Tensor) or raw.shape != change.shape:
            return None
        self._change = None
        return raw + change


def _with_predictions(output: Any, predicted: Raw) -> Any:
    if isinstance(output, tuple):
        return (predicted, *output[1:])
    return type(output)(**{**output, "sample": predicted})
