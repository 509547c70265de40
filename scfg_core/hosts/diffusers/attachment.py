"""S-CFG on one U-Net: what happens before and after each of its calls, and how it is undone."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...collector import CollectorOutOfMemory, Entry, Rows
from ...entries import chunk_starts
from ...errors import ScfgError, expect
from ...grid import Grid
from ...guidance import rescale
from ...segmentation import Segmentation
from ...session import Collection, Moment, Placement, Session
from ...settings import Settings
from ...trace import Run
from .noise import NoiseLevel, noise_level
from .unet import Block, watch_attention

COND, UNCOND = "cond", "uncond"
NO_GUIDANCE = "calls at a scale of 1 or less, or on an odd batch, are no guidance: S-CFG did nothing there"

_attached: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True)
class _Call:
    """A guided call of the U-Net that is under way. `rows` is empty where its attention need not be observed."""

    sample: Tensor
    noise: NoiseLevel
    moment: Moment
    rows: tuple[Rows, ...]


@dataclass
class Attachment:
    """S-CFG on `unet`; use it in a `with` statement, or call `detach()`. `scfg` makes it and says what is what."""

    unet: nn.Module
    run: Run
    settings: Settings
    collection: Collection
    scale: Callable[[], float]
    scheduler: Callable[[], Any]
    start_tokens: Sequence[int] | None = None
    word_weights: Mapping[int, float] | None = None
    resegment: Callable[[Segmentation], Segmentation] | None = None
    _hooks: list[RemovableHandle] = field(default_factory=list)
    _call: _Call | None = None
    _timestep: float = math.inf

    def __post_init__(self) -> None:
        self._session = self._new_session()

    def _new_session(self) -> Session:
        return Session(self.settings, self.collection, self.run, resegment=self.resegment)

    def __enter__(self) -> Run:
        return self.run

    def __exit__(self, *error: object) -> None:
        self.detach()

    def attach(self, blocks: Sequence[Block]) -> None:
        """Hook the U-Net and these blocks. Raises `ScfgError` where S-CFG is attached already."""
        expect(self.unet not in _attached, ScfgError, "a U-Net without S-CFG", "one that has it", "detach it first")
        _attached.add(self.unet)
        try:
            self._hooks.append(self.unet.register_forward_pre_hook(self._before, with_kwargs=True))
            self._hooks.append(self.unet.register_forward_hook(self._after))
            for block in blocks:
                self._watch(block)
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
        self._call = None
        self._session.collector.begin({})
        self.run.close()

    def _watch(self, block: Block) -> None:
        grid: Grid | None = None

        def measure(tower: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal grid
            features = args[0] if args else kwargs["hidden_states"]
            grid = Grid(features.shape[-2], features.shape[-1])

        def observer(name: str) -> Callable[[Tensor, Tensor, float], None]:
            def observe(q: Tensor, k: Tensor, scale: float) -> None:
                call = self._call
                assert call is not None and grid is not None
                try:
                    with torch.no_grad():
                        feed = getattr(self._session.collector, name)
                        feed(block.info.name, q, k, call.rows, grid, scale=scale)
                except CollectorOutOfMemory as error:
                    self._session.give_up(error)

            return observe

        self._hooks.append(block.tower.register_forward_pre_hook(measure, with_kwargs=True))
        self._hooks += watch_attention(block.attn1, self._wanted, observer("observe_self"))
        self._hooks += watch_attention(block.attn2, self._wanted, observer("observe_cross"))

    def _wanted(self) -> bool:
        return self._call is not None and bool(self._call.rows) and not self._session.exhausted

    def _before(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin an evaluation, where this call is one under guidance."""
        self._call = None
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), args, strict=False)) | kwargs
        sample, tokens = given["sample"], given["encoder_hidden_states"].shape[1]
        scale, half = self.scale(), sample.shape[0] // 2
        if scale <= 1 or sample.shape[0] != 2 * half:
            self.run.note(NO_GUIDANCE)
            return
        timestep = float(torch.as_tensor(given["timestep"]).flatten()[0])
        self._advance(timestep)
        starts = chunk_starts(tokens) if self.start_tokens is None else tuple(self.start_tokens)
        entries = {UNCOND: Entry("uncond", tokens, starts), COND: Entry("cond", tokens, starts)}
        rows = (Rows(UNCOND, slice(0, half)), Rows(COND, slice(half, 2 * half)))
        noise = noise_level(self.scheduler(), timestep)
        moment = Moment(noise.sigma, scale, self.settings.active_at(noise.progress))
        self._call = _Call(sample, noise, moment, rows if self._session.begin(entries) else ())

    def _advance(self, timestep: float) -> None:
        """When the noise level rises, another sampling has begun: nothing of the last one may reach it."""
        if timestep > self._timestep:
            self.run.restart()
            self._session = self._new_session()
        if not self.run.schedule:
            scheduler = self.scheduler()
            levels = [noise_level(scheduler, t).sigma for t in torch.as_tensor(scheduler.timesteps).tolist()]
            self.run.schedule = (*levels, 0.0)
        self._timestep = timestep

    def _after(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """The output with its conditional half rescaled; None leaves it as it is."""
        call, self._call = self._call, None
        if call is None:
            return None
        predicted = output[0]
        ratio = self._ratio(call, *predicted.chunk(2))
        if ratio is None:
            return None
        uncond, cond = predicted.chunk(2)
        guided = torch.cat((uncond, rescale(cond, uncond, ratio)))
        return (guided, *output[1:]) if isinstance(output, tuple) else type(output)(**{**output, "sample": guided})

    @torch.no_grad()
    def _ratio(self, call: _Call, uncond: Tensor, cond: Tensor) -> Tensor | None:
        return self._session.ratio(
            cond - uncond,
            call.noise.epsilon(call.sample.chunk(2)[0], uncond),
            call.moment,
            [Placement(COND)],
            [Placement(UNCOND)],
            epsilon_unit=call.noise.epsilon_unit,
            word_weights=self.word_weights,
        )
