"""q and k of a layer go in as they pass, fused token maps per prompt come out.

For every evaluation of the model

    collector.begin({"positive": Prompt.plain("cond", 77), "negative": Prompt.plain("uncond", 77)})
    collector.observe(call)                  # attn1 of a transformer block …
    collector.observe(call)                  # … then its attn2: C̄ of this layer is summed here; or one joint call
    collector.token_maps("positive")         # after the last layer

A call says which rows of its batch belong to which prompt and image, so a batch that is joined, split or reversed
gives the same maps. Nothing of size n² outlives its transformer block, and nothing of size layers × n² exists.
Unconditional prompts need START against the rest only (Eq. 14), so only two columns are propagated there.
"""

import threading
from collections.abc import Hashable, Mapping

import torch
from einops import reduce
from torch import Tensor

from ..grid import Grid
from ..method.fusion import TokenMaps
from ..method.propagation import needs_self_attention, propagate
from ..method.settings import Settings
from ..prompt import Prompt
from .budget import DEFAULT_BUDGET_MIB, Backend, MemoryBudget
from .calls import Key, LayerCall, Rows
from .dead import drop_dead, restore_dead
from .operators import Operators, cross_maps, joint_maps, self_operators
from .sums import PromptSums


class Collector:
    """Token maps of one evaluation at a time; may be fed from several threads at once.

    settings    power_weights, renormalise, smooth_maps and foreground_rule shape what is collected.
    budget_mib  most that one layer may take beyond q, k, v and its output, MiB.
    backend     "auto", or one backend forced (for tests and benchmarks).
    """

    def __init__(
        self, settings: Settings, budget_mib: float = DEFAULT_BUDGET_MIB, backend: Backend = "auto"
    ) -> None:
        self.settings = settings
        self.budget = MemoryBudget(budget_mib, backend)
        self._lock = threading.Lock()
        self.begin({})

    def begin(self, prompts: Mapping[Key, Prompt]) -> None:
        """Forget the last evaluation; the next rows belong to `prompts`."""
        with self._lock:
            self._sums = PromptSums(self.settings, prompts)
            self._pending: dict[tuple[str, Hashable, int], Operators] = {}
            self.skipped: set[str] = set()
            """Layers of this evaluation whose calls did not fit: other nodes tile or merge their tokens."""

    @torch.no_grad()
    def observe(self, call: LayerCall) -> None:
        """Take one call of an attention layer: self-attention, then the block's cross-attention, or both in one.

        A call that does not have the rows, patches and keys that the host expects leaves its layer out of this
        evaluation (`skipped`). Raises `ShapeError` for rows of an undeclared prompt, `CollectorOutOfMemory`.
        """
        if call.layer in self.skipped:
            return
        if not (call.fits() and self._takes(call)):
            self.skip(call.layer)
        elif call.layout.is_joint:
            self._observe_joint(call)
        elif call.layout.text:
            self._observe_cross(call)
        else:
            self._observe_self(call)

    def skip(self, layer: str) -> None:
        """Leave a layer out of this evaluation."""
        with self._lock:
            self.skipped.add(layer)
            self._pending = {key: kept for key, kept in self._pending.items() if key[0] != layer}

    def drop_pending(self) -> None:
        """Drop the S of all layers whose cross-attention did not come."""
        with self._lock:
            self._pending = {}

    def prompt(self, prompt: Hashable) -> Prompt:
        """A prompt of this evaluation. Raises `ShapeError` where it was not declared."""
        return self._sums.prompt(prompt)

    def token_maps(self, prompt: Hashable) -> TokenMaps:
        """Fused maps of a prompt: its tokens, or [START, rest] of an unconditional one under `start_vs_rest`."""
        return self._sums.token_maps(prompt)

    def foreground_maps(self, prompt: Hashable) -> TokenMaps:
        """What Eq. 14 needs of a prompt of branch "uncond" or "both": [START, rest], or all tokens under
        `argmax`."""
        return self._sums.foreground_maps(prompt)

    def layers_seen(self, prompt: Hashable) -> int:
        """How many layers were summed for a prompt in this evaluation."""
        return self._sums.layers_seen(prompt)

    def grids_seen(self) -> tuple[Grid, ...]:
        """Grids of the layers that were summed in this evaluation, largest first."""
        return self._sums.grids_seen()

    def _takes(self, call: LayerCall) -> bool:
        """Whether the text keys are whole repeats of every prompt's tokens, and S of the block is there."""
        if not call.layout.text:
            return True
        prompts = [self._sums.prompt(part.prompt) for part in call.rows]
        if any(len(call.layout.text) % prompt.num_tokens for prompt in prompts):
            return False
        if call.layout.is_joint or not needs_self_attention(self.settings.power_weights):
            return True
        return all(self._key(call, part) in self._pending for part in call.rows)

    def _observe_self(self, call: LayerCall) -> None:
        if not needs_self_attention(self.settings.power_weights):
            return
        for part in call.rows:
            q, k = call.q[part.rows], call.k[part.rows]
            operators = self_operators(q, k, call.scale, len(call.q), self.budget)
            with self._lock:
                self._pending[self._key(call, part)] = operators

    def _observe_cross(self, call: LayerCall) -> None:
        for part in call.rows:
            with self._lock:
                operators = self._pending.pop(self._key(call, part), None)
            k, _ = drop_dead(call.k[part.rows], call.layout, self._sums.prompt(part.prompt))
            cross = cross_maps(call.q[part.rows], k, call.scale, self.budget)
            self._add(part, cross, operators, call.grid)

    def _observe_joint(self, call: LayerCall) -> None:
        """Rows of S sum to less than 1: `after_fusion` divides by their sums, `per_layer` (the authors) does
        not."""
        normalise = self.settings.renormalise != "per_layer"
        for part in call.rows:
            k, layout = drop_dead(call.k[part.rows], call.layout, self._sums.prompt(part.prompt))
            q, text, image = call.q[part.rows], layout.text, layout.image
            cross, operators = joint_maps(q, k, call.scale, self.budget, text, image, normalise)
            self._add(part, cross, operators, call.grid)

    def _add(self, part: Rows, cross: Tensor, operators: Operators | None, grid: Grid) -> None:
        """Propagate the columns that the prompt's branch needs, and add them to its sums."""
        prompt = self._sums.prompt(part.prompt)
        columns = self._sums.columns(part, fold_repeats(restore_dead(cross, prompt), prompt.num_tokens))
        weights = self.settings.power_weights
        attention = operators or [None] * len(cross)

        def propagate_all() -> list[Tensor]:
            joined = torch.cat(list(columns.values()), dim=-1)
            images = [propagate(s, c, weights) for s, c in zip(attention, joined, strict=True)]
            return list(torch.stack(images).split([kept.shape[-1] for kept in columns.values()], dim=-1))

        self._sums.add(part, dict(zip(columns, self.budget.run(propagate_all), strict=True)), grid)

    @staticmethod
    def _key(call: LayerCall, part: Rows) -> tuple[str, Hashable, int]:
        return call.layer, part.prompt, part.first_image


def fold_repeats(maps: Tensor, tokens: int) -> Tensor:
    """(b, n, rep·L) → (b, n, L): a host may repeat the token axis; the copies' probabilities are summed."""
    return reduce(maps, "b n (rep l) -> b n l", "sum", l=tokens)
