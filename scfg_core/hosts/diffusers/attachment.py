"""S-CFG on one U-Net: what happens before and after each of its calls, and how it is undone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...collect.calls import LayerCall, Rows
from ...errors import ScfgError
from ...grid import Grid
from ...method.guidance import rescale
from ...method.segment import Segmentation
from ...method.settings import Settings
from ...prompt import Branch, Prompt
from ...run.guard import guarded
from ...run.notes import Note
from ...run.record import Run
from ...run.session import Collection, Placement, Predictions, Session
from ...run.weights import WordWeights
from ..clip import chunk_starts
from .layout import count_predicted, is_pair
from .models import JointLayer, Layer
from .models.unet import Form
from .schedule import Schedule, Scheduler, Timestep

COND: Branch = "cond"
UNCOND: Branch = "uncond"

_attached: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class _Call:
    """A guided call of the U-Net that is under way."""

    sample: Tensor
    tokens: int
    time: float
    scale: float

    @property
    def rows(self) -> tuple[Rows, Rows]:
        half = len(self.sample) // 2
        return Rows(UNCOND, slice(0, half)), Rows(COND, slice(half, 2 * half))


@dataclass
class Attachment:
    """S-CFG on `unet`; use it in a `with` statement, or call `detach()`. `scfg` makes it and explains its fields.

    scale, scheduler  γ and the scheduler, asked at every call.
    """

    unet: nn.Module
    run: Run
    settings: Settings
    collection: Collection
    scale: Callable[[], float]
    scheduler: Callable[[], Scheduler]
    prompt: Prompt | None = None
    start_tokens: Sequence[int] | None = None
    word_weights: WordWeights | Mapping[str, float] | Mapping[int, float] | None = None
    resegment: Callable[[Segmentation], Segmentation] | None = None
    _hooks: list[RemovableHandle] = field(default_factory=list)
    _call: _Call | None = None
    _schedule: Schedule | None = None
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
        """Hook the U-Net and these layers. Raises `ScfgError` where S-CFG is attached already."""
        if self.unet in _attached:
            raise ScfgError("expected a U-Net without S-CFG, got one that has it: detach it first")
        _attached.add(self.unet)
        if self.start_tokens is None and isinstance(layers[0], JointLayer):
            self.start_tokens = ()
        try:
            self._hooks.append(self.unet.register_forward_pre_hook(self._before, with_kwargs=True))
            self._hooks.append(self.unet.register_forward_hook(self._after))
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
        _attached.discard(self.unet)
        self._call = self._schedule = None
        self._session.end_evaluation()
        self.run.close()

    def observing(self) -> bool:
        """Whether q and k of the call under way are wanted."""
        return self._call is not None and self._session.observing

    def observe(self, layer: str, form: Form, q: Tensor, k: Tensor, grid: Grid, scale: float) -> None:
        """Hand a layer's q and k to the session."""
        call = self._call
        if call is not None:
            self._session.observe(LayerCall(layer, q, k, call.rows, grid, form(call.tokens, grid), scale))

    def give_up(self, error: Exception) -> None:
        """Plain CFG for the rest of the sampling."""
        self._session.give_up(error)

    @guarded
    def _before(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin an evaluation, where this call is one under guidance."""
        self._call = None
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        sample, text, scale = given["sample"], given.get("encoder_hidden_states"), self.scale()
        if text is None:
            self.run.note(Note.NO_TEXT)
        elif scale <= 1 or len(sample) % 2:
            self.run.note(Note.NO_GUIDANCE)
        elif not self._advance(given["timestep"], sample):
            self.run.note(Note.NOT_A_PAIR)
        else:
            tokens = text.shape[1]
            self._session.begin({branch: self._prompt(branch, tokens) for branch in (UNCOND, COND)})
            self._call = _Call(sample, tokens, self._time, scale)

    def _prompt(self, branch: Branch, tokens: int) -> Prompt:
        """The prompt of a call with so many tokens: as the caller described it, where that has as many."""
        starts = chunk_starts(tokens) if self.start_tokens is None else tuple(self.start_tokens)
        plain = Prompt.plain(branch, tokens, starts)
        if branch == UNCOND or self.prompt is None:
            return plain
        if self.prompt.num_tokens != tokens:
            self.run.note(Note.OTHER_LENGTH, expected=self.prompt.num_tokens, given=tokens)
            return plain
        roles = self.prompt.roles if self.start_tokens is None else plain.roles
        return replace(self.prompt, branch=branch, roles=roles)

    def _advance(self, timestep: Timestep, sample: Tensor) -> bool:
        """Keep track of the sampling; whether it is one under CFG, which is asked once for a sampling and shape.

        Where the timesteps were set anew or the noise level rises, another sampling has begun: nothing of the last
        one may reach it.
        """
        scheduler = self.scheduler()
        begun = self._schedule is None or not self._schedule.belongs_to(scheduler)
        schedule = Schedule.of(scheduler) if self._schedule is None or begun else self._schedule
        time = schedule.time_of(timestep)
        begun = begun or time > self._time
        if begun or self._shape != tuple(sample.shape):
            self._pair = is_pair(sample)
        self._schedule, self._time, self._shape = schedule, time, tuple(sample.shape)
        self._begun = self._begun or begun
        if self._pair and self._begun:
            self._begun = False
            if self.run.schedule:
                self.run.restart()
                self._session = self._new_session()
            self.run.schedule = schedule.sigmas()
        return self._pair

    @torch.no_grad()
    def _after(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The output with its conditional half rescaled; None leaves it as it is."""
        call, self._call = self._call, None
        if call is None:
            return None
        guided = self._guided(call, output[0])
        self._session.end_evaluation()
        if guided is None:
            return None
        return (guided, *output[1:]) if isinstance(output, tuple) else type(output)(**{**output, "sample": guided})

    @guarded
    def _guided(self, call: _Call, predicted: Tensor) -> Tensor | None:
        """[ε(x, ∅); ε'] in the network's terms; a learned variance stays as it is."""
        schedule = self._schedule
        if schedule is None:
            return None
        channels = count_predicted(self.unet, self.scheduler(), call.sample.shape[1], predicted.shape[1])
        uncond, cond = predicted[:, :channels].chunk(2)
        noise, progress = schedule.level(call.time), schedule.progress(call.time)
        predictions = Predictions(
            x=call.sample.chunk(2)[0][:, :channels],
            cond=cond,
            uncond=uncond,
            noise=noise,
            sigma=noise.sigma,
            guidance_scale=call.scale,
            active=self.settings.active_at(progress),
            within=lambda start, end: start <= progress <= end,
        )
        ratio = self._session.ratio(predictions, [Placement(COND)], [Placement(UNCOND)])
        if ratio is None:
            return None
        guided = torch.cat((uncond, rescale(cond, uncond, ratio)))
        return torch.cat((guided, predicted[:, channels:]), dim=1)
