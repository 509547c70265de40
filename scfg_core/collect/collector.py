"""q and k of a layer go in as they pass, fused token maps per prompt come out.

For every evaluation of the model

    collector.begin({"positive": Prompt.plain("cond", 77), "negative": Prompt.plain("uncond", 77)})
    collector.observe(call)                  # attn1 of a transformer block …
    collector.observe(call)                  # … then its attn2: C̄ of this layer is summed here; or one joint call
    collector.token_maps("positive")         # after the last layer

A call says which rows of its batch belong to which prompt and image, so a batch that is joined, split or reversed
gives the same maps. Unconditional prompts need START against the rest only (Eq. 14): two columns. Of a
self-attention only q and k are kept, by reference, until the cross-attention of the block comes; small blocks then
wait for others of their sizes (`blocks`), at most until somebody asks for maps. S of few images at a time exists,
while their columns are propagated. Nothing of ours computes the model's own output.
"""

import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import SettingsError
from ..grid import Grid
from ..method.fusion import TokenMaps
from ..method.propagation import needs_self_attention
from ..method.settings import Settings
from ..prompt import Prompt
from .backend import BACKENDS, Backend, BackendName, PyTorch, backend_for, distrust
from .blocks import BLOCK_PART, WAITING_PART, Block, Blocks
from .budget import MIB, MemoryBudget, is_out_of_memory
from .calls import Key, LayerCall, Rows
from .columns import Needed, kept_keys
from .operators import SelfHeads
from .sums import PromptSums

Result = TypeVar("Result")


class Collector:
    """Token maps of one evaluation at a time; may be fed from several threads at once.

    settings    power_weights, renormalise, smooth_maps and foreground_rule shape what is collected.
    budget_mib  most that the S of one layer may take, MiB; None = by the device, see `MemoryBudget`.
    backend     one backend forced, for tests and benchmarks; None = Triton where it works, else PyTorch.
    budget      the budget itself, for tests and benchmarks.
    """

    def __init__(
        self,
        settings: Settings,
        budget_mib: float | None = None,
        backend: BackendName | None = None,
        budget: MemoryBudget | None = None,
    ) -> None:
        self.settings = settings
        self._propagates = needs_self_attention(settings.power_weights)
        if backend is not None and backend not in BACKENDS:
            raise SettingsError(f"expected a backend of {', '.join(BACKENDS)}, got {backend!r}: leave it out")
        self._forced = None if backend is None else BACKENDS[backend]()
        if budget_mib is not None and not budget_mib > 0:
            raise SettingsError(f"expected a budget above 0 MiB, got {budget_mib}: None leaves it to the device")
        self._limit = None if budget_mib is None else max(1, int(budget_mib * MIB))
        self._budget = budget
        self._lock = threading.Lock()
        self.begin({})

    def begin(self, prompts: Mapping[Key, Prompt]) -> None:
        """Forget the last evaluation; the next rows belong to `prompts`."""
        with self._lock:
            self._sums = PromptSums(self.settings, prompts)
            self._pending: dict[tuple[str, Hashable, int], tuple[LayerCall, slice]] = {}
            self._due: dict[Hashable, list[Block]] = {}
            self._due_bytes = 0
            self.skipped: set[tuple[str, Hashable]] = set()
            """(layer, prompt) whose calls in this evaluation did not fit: another node tiles or merges tokens."""
            self._computed_by: set[BackendName] = set()

    @property
    def backend(self) -> BackendName | None:
        """Who computed this evaluation's maps: Triton, even where small layers were left to PyTorch."""
        return "triton" if "triton" in self._computed_by else next(iter(self._computed_by), None)

    def declare(self, prompts: Mapping[Key, Prompt]) -> None:
        """More prompts of this evaluation, whose rows follow."""
        with self._lock:
            self._sums.declare(prompts)

    def observe(self, call: LayerCall) -> None:
        """Take one call of an attention layer: self-attention, then the block's cross-attention, or both in one.

        A call that does not have the rows, patches and keys that the host expects leaves its layer, for its
        prompts, out of this evaluation (`skipped`). Raises `ShapeError` for rows of an undeclared prompt, and
        `CollectorOutOfMemory`.
        """
        if self.skipped and any((call.layer, part.prompt) in self.skipped for part in call.rows):
            return
        needed = [self._sums.needed(part.prompt) for part in call.rows]
        if not (call.fits() and _takes(call, needed)):
            self._skip(call)
        elif call.layout.is_joint:
            self._observe_joint(call, needed)
        elif call.layout.text:
            self._observe_text(call, needed)
        elif self._propagates:
            with self._lock:
                for part in call.rows:
                    self._pending[self._key(call, part)] = (call, part.rows)

    def skip(self, layer: str, prompts: Iterable[Hashable]) -> None:
        """Leave a layer of these prompts out of this evaluation."""
        with self._lock:
            self.skipped.update((layer, prompt) for prompt in prompts)
            self._pending = {key: kept for key, kept in self._pending.items() if key[:2] not in self.skipped}

    def catch_up(self) -> None:
        """Compute the blocks that wait for others, as asking for maps does. Raises `CollectorOutOfMemory`."""
        with self._lock:
            due, self._due, self._due_bytes = self._due, {}, 0
        for alike in due.values():
            self._sum_up(Blocks(alike))

    def drop_pending(self) -> None:
        """Drop the S of all layers whose cross-attention did not come."""
        with self._lock:
            self._pending = {}

    def prompt(self, prompt: Hashable) -> Prompt:
        """A prompt of this evaluation. Raises `ShapeError` where it was not declared."""
        return self._sums.prompt(prompt)

    def token_maps(self, prompt: Hashable) -> TokenMaps:
        """Fused maps of a prompt: its tokens, or [START, rest] of an unconditional one under `start_vs_rest`."""
        self.catch_up()
        return self._sums.token_maps(prompt)

    def foreground_maps(self, prompt: Hashable) -> TokenMaps:
        """What Eq. 14 needs of a prompt of branch "uncond" or "both": [START, rest], or all tokens under
        `argmax`."""
        self.catch_up()
        return self._sums.foreground_maps(prompt)

    def layers_seen(self, prompt: Hashable) -> int:
        """How many layers were summed for a prompt in this evaluation."""
        self.catch_up()
        return self._sums.layers_seen(prompt)

    def grids_seen(self) -> tuple[Grid, ...]:
        """Grids of the layers that were summed in this evaluation, largest first."""
        self.catch_up()
        return self._sums.grids_seen()

    def _skip(self, call: LayerCall) -> None:
        self.skip(call.layer, [part.prompt for part in call.rows])

    @torch.no_grad()
    def _observe_joint(self, call: LayerCall, needed: Sequence[Needed]) -> None:
        """Self- and cross-attention in one call."""
        rows = [part.rows for part in call.rows]
        kept = kept_keys([columns.prompt for columns in needed], rows, call)
        for part, columns in zip(call.rows, needed, strict=True):
            found = self._joint(call, part.rows, columns, kept)
            self._sums.add(part, columns.split(found), call.grid)

    def _observe_text(self, call: LayerCall, needed: Sequence[Needed]) -> None:
        """The last call of a block: all that its maps are made of is here; it waits for others, or is computed."""
        with self._lock:
            waiting = [self._pending.pop(self._key(call, part), None) for part in call.rows]
        own = [found for found in waiting if found is not None]
        if self._propagates and len(own) < len(waiting):
            self._skip(call)
            return
        block = Block(call, needed, own or None)
        size, budget = block.bytes(), self._budget_of(call.q)
        if size > budget.limit // BLOCK_PART:
            self._sum_up(Blocks([block]))
            return
        with self._lock:
            self._due.setdefault(block.kind(), []).append(block)
            self._due_bytes += size
        if self._due_bytes > budget.limit // WAITING_PART:
            self.catch_up()

    @torch.no_grad()
    def _sum_up(self, blocks: Blocks) -> None:
        """Add the maps of some blocks to the sums."""

        def compute(backend: Backend) -> list[tuple[slice, Tensor]]:
            cross = self._cross(backend, blocks)
            if blocks.heads is None:
                return [(slice(0, cross.shape[0]), cross)]
            return self._propagated(backend, blocks.heads, cross, blocks)

        propagated = self._compute(blocks.call.q, compute)
        for part, columns in zip(blocks.rows, blocks.needed, strict=True):
            found = columns.split(_gathered(propagated, part.rows))
            self._sums.add(part, found, blocks.call.grid, len(blocks.blocks))

    def _cross(self, backend: Backend, blocks: Blocks) -> Tensor:
        """C (b, n, w) with the columns that every prompt needs in front."""
        keys, (q, k) = blocks.call.layout.keys, blocks.cross
        width = backend.padded(max(keys, *(columns.width for columns in blocks.needed)))
        cross = backend.cross_maps(q, k, blocks.call.softmax_scale, blocks.kept, width, self._budget_of(q))
        for part, columns in zip(blocks.rows, blocks.needed, strict=True):
            columns.arrange(cross[part.rows], keys)
        return cross

    def _propagated(
        self, backend: Backend, heads: SelfHeads, cross: Tensor, blocks: Blocks
    ) -> list[tuple[slice, Tensor]]:
        """Eq. 10, some images at a time."""
        widths = [0] * cross.shape[0]
        for part, columns in zip(blocks.rows, blocks.needed, strict=True):
            widths[part.rows] = [columns.width] * (part.rows.stop - part.rows.start)
        budget, weights = self._budget_of(heads.q), self.settings.power_weights
        found = []
        for images, width, operator in backend.operators(heads, widths, cross.shape[2], budget):
            found.append((images, operator.propagate(cross[images, :, :width], weights)))
            del operator  # its S, before the next one is made
        return found

    def _joint(self, call: LayerCall, rows: slice, needed: Needed, kept: Tensor | None) -> Tensor:
        """Rows of S sum to less than 1: `after_fusion` divides by the sums, `per_layer` (the authors) does not."""
        text, image = call.layout.text, call.layout.image
        normalise, weights = self.settings.renormalise != "per_layer", self.settings.power_weights
        part = None if kept is None else kept[rows]
        heads = SelfHeads(
            call.q[rows], call.k[rows], call.softmax_scale, slice(image.start, image.stop), part, normalise
        )
        budget = self._budget_of(call.q)

        def compute(backend: Backend) -> Tensor:
            room, pieces = backend.padded(needed.width), []
            for _, _, operator in backend.operators(heads, [room] * heads.q.shape[0], room, budget):
                cross = needed.chosen(operator.text_columns(slice(text.start, text.stop)))
                columns = F.pad(cross, (0, room - cross.shape[2]))
                pieces.append(operator.propagate(columns, weights) if self._propagates else columns)
                del operator  # its S, before the next one is made
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

        return self._compute(call.q, compute)

    def _compute(self, q: Tensor, compute: Callable[[Backend], Result]) -> Result:
        """The result by the backend for q; by PyTorch where Triton fails; with less memory where it runs out."""
        budget = self._budget_of(q)

        def attempt() -> Result:
            backend = self._forced or backend_for(q, budget)
            try:
                result = compute(backend)
            except Exception as error:
                if backend is self._forced or backend.name == "pytorch" or is_out_of_memory(error):
                    raise
                distrust(error)
                backend = PyTorch()
                result = compute(backend)
            self._computed_by.add(backend.name)
            return result

        return budget.run(attempt)

    def _budget_of(self, q: Tensor) -> MemoryBudget:
        if self._budget is None:
            self._budget = MemoryBudget.of(q, self._limit)
        return self._budget

    @staticmethod
    def _key(call: LayerCall, part: Rows) -> tuple[str, Hashable, int]:
        return call.layer, part.prompt, part.first_image


def _takes(call: LayerCall, needed: Sequence[Needed]) -> bool:
    """Whether the text keys are whole repeats of every prompt's tokens."""
    length = len(call.layout.text)
    return length == 0 or not any(length % columns.prompt.num_tokens for columns in needed)


def _gathered(pieces: Sequence[tuple[slice, Tensor]], rows: slice) -> Tensor:
    """The rows of a call from the pieces in which they were computed."""
    found = [
        piece[max(rows.start, images.start) - images.start : rows.stop - images.start]
        for images, piece in pieces
        if images.start < rows.stop and rows.start < images.stop
    ]
    return found[0] if len(found) == 1 else torch.cat(found)
