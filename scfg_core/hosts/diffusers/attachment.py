"""S-CFG on one U-Net: what happens before and after each of its calls, and how it is undone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...collector import Entry, Rows
from ...entries import chunk_starts
from ...errors import ScfgError, expect
from ...grid import Grid
from ...guidance import rescale, std_correction
from ...segmentation import Segmentation
from ...session import Collection, Moment, Placement, Session
from ...settings import Settings
from ...trace import Run
from .layout import count_predicted, is_pair
from .noise import NoiseLevel, Schedule
from .unet import JointLayer, Layer

COND, UNCOND = "cond", "uncond"
NO_GUIDANCE = "calls at a scale of 1 or less, or on an odd batch, are no guidance: S-CFG did nothing there"
NOT_A_PAIR = "the halves of a batch were not the same pictures, so this was no CFG: S-CFG did nothing there"
NO_TEXT = "a call without encoder_hidden_states has no text to attend to: S-CFG did nothing there"
CHANGED = "some layers attended to other rows or patches than their own (merged or tiled): they were left out"

_attached: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class _Call:
    """A guided call of the U-Net that is under way. `rows` is empty where its attention need not be observed."""

    sample: Tensor
    tokens: int
    noise: NoiseLevel
    moment: Moment
    rows: tuple[Rows, ...]
    left_out: set[str] = field(default_factory=set)


@dataclass
class Attachment:
    """S-CFG on `unet`; use it in a `with` statement, or call `detach()`. `scfg` makes it and says what is what.

    scale, std_share, scheduler  γ, `guidance_rescale` φ and the scheduler, asked at every call.
    """

    unet: nn.Module
    run: Run
    settings: Settings
    collection: Collection
    scale: Callable[[], float]
    std_share: Callable[[], float]
    scheduler: Callable[[], Any]
    start_tokens: Sequence[int] | None = None
    word_weights: Mapping[int, float] | None = None
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
        return Session(self.settings, self.collection, self.run, resegment=self._regions)

    def _regions(self, found: Segmentation) -> Segmentation:
        """The caller's own regions, where there are any; a prompt without START has none that could say nothing."""
        if self.start_tokens is not None and not self.start_tokens:
            found = replace(found, has_foreground=None)
        return found if self.resegment is None else self.resegment(found)

    def __enter__(self) -> Run:
        return self.run

    def __exit__(self, *error: object) -> None:
        self.detach()

    def attach(self, layers: Sequence[Layer]) -> None:
        """Hook the U-Net and these layers. Raises `ScfgError` where S-CFG is attached already."""
        expect(self.unet not in _attached, ScfgError, "a U-Net without S-CFG", "one that has it", "detach it first")
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

    def wanted(self) -> bool:
        """Whether q and k of the call under way are to be observed."""
        return self._call is not None and bool(self._call.rows) and not self._session.exhausted

    def feed(self, kind: str, layer: str, q: Tensor, k: Tensor, grid: Grid, **more: Any) -> None:
        """Hand a layer's q and k to the collector."""
        call = self._call
        assert call is not None
        keys = {"observe_self": grid.area, "observe_cross": call.tokens, "observe_joint": call.tokens + grid.area}
        rows = len(call.sample)
        if (q.shape[0], q.shape[2], k.shape[0], k.shape[2]) != (rows, grid.area, rows, keys[kind]):
            call.left_out.add(layer)
            self.run.note(CHANGED)
        if layer in call.left_out:
            return
        getattr(self._session.collector, kind)(layer, q, k, call.rows, grid, **more)

    def give_up(self, error: Exception) -> None:
        """Plain CFG for the rest of the sampling."""
        self._session.give_up(error)

    def _before(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin an evaluation, where this call is one under guidance."""
        self._call = None
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        sample, text, scale = given["sample"], given.get("encoder_hidden_states"), self.scale()
        if text is None:
            self.run.note(NO_TEXT)
        elif scale <= 1 or len(sample) % 2:
            self.run.note(NO_GUIDANCE)
        elif not self._advance(given["timestep"], sample):
            self.run.note(NOT_A_PAIR)
        else:
            self._begin(sample, text.shape[1], scale)

    def _advance(self, timestep: Any, sample: Tensor) -> bool:
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

    def _begin(self, sample: Tensor, tokens: int, scale: float) -> None:
        assert self._schedule is not None
        half = len(sample) // 2
        starts = chunk_starts(tokens) if self.start_tokens is None else tuple(self.start_tokens)
        entries = {UNCOND: Entry("uncond", tokens, starts), COND: Entry("cond", tokens, starts)}
        rows = (Rows(UNCOND, slice(0, half)), Rows(COND, slice(half, 2 * half)))
        noise = self._schedule.level(self._time)
        moment = Moment(noise.sigma, scale, self.settings.active_at(noise.progress))
        self._call = _Call(sample, tokens, noise, moment, rows if self._session.begin(entries) else ())

    @torch.no_grad()
    def _after(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The output with its conditional half rescaled; None leaves it as it is."""
        call, self._call = self._call, None
        if call is None:
            return None
        try:
            guided = self._guided(call, output[0])
        except Exception as error:
            self.give_up(error)
            return None
        finally:
            self._session.end_evaluation()
        if guided is None:
            return None
        return (guided, *output[1:]) if isinstance(output, tuple) else type(output)(**{**output, "sample": guided})

    def _guided(self, call: _Call, predicted: Tensor) -> Tensor | None:
        """[ε(x, ∅); ε'], times what keeps `guidance_rescale` right; a learned variance stays as it is."""
        channels = count_predicted(self.unet, self.scheduler(), call.sample.shape[1], predicted.shape[1])
        uncond, cond = predicted[:, :channels].chunk(2)
        ratio = self._session.ratio(
            cond - uncond,
            call.noise.epsilon(call.sample.chunk(2)[0][:, :channels], uncond),
            call.moment,
            [Placement(COND)],
            [Placement(UNCOND)],
            epsilon_unit=call.noise.epsilon_unit,
            word_weights=self.word_weights,
        )
        if ratio is None:
            return None
        changed, share = rescale(cond, uncond, ratio), self.std_share()
        guided = torch.cat((uncond, changed))
        if share > 0:
            factor = std_correction(cond, changed, uncond, call.moment.guidance_scale, share)
            guided = (guided * torch.cat((factor, factor))).to(guided.dtype)
        return torch.cat((guided, predicted[:, channels:]), dim=1)
