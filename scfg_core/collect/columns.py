"""Which columns of C a prompt needs, side by side: what its branch keeps, for Eq. 9, for Eq. 14, or for both.

They replace the first columns of C in its own memory, which is wide enough. Of a plain conditional prompt nothing
moves; an unconditional one has [START, sum of all others] in front, and whatever follows is not looked at.
"""

from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

from ..method.fusion import Columns, columns_of_branch, select_columns
from ..method.settings import Settings
from ..precision import constant
from ..prompt import Prompt
from .calls import LayerCall


class Needed:
    """The columns that a prompt needs of C.

    kinds  what is kept, in order, and where it stands among the columns.
    width  how many columns there are.
    """

    def __init__(self, prompt: Prompt, settings: Settings) -> None:
        self.prompt = prompt
        self.kinds: dict[Columns, slice] = {}
        self.width = 0
        for kind in columns_of_branch(prompt.branch, settings):
            first, self.width = self.width, self.width + (2 if kind == "start_and_rest" else len(prompt.owners))
            self.kinds[kind] = slice(first, self.width)
        tokens, starts = prompt.num_tokens, prompt.start_tokens
        self._first_start = tuple(self.kinds) == ("start_and_rest",) and starts == (0,)
        self._unmoved = tuple(self.kinds) == ("tokens",) and tokens == self.width and len(starts) < 2

    def arrange(self, cross: Tensor, keys: int) -> None:
        """Bring the columns to the front of C (b, n, w), which has `keys` columns of whole repeats and rows that
        sum to 1.
        """
        if keys == self.prompt.num_tokens and self._unmoved:
            return
        if keys == self.prompt.num_tokens and self._first_start:
            torch.sub(constant(1.0, cross.dtype, cross.device), cross[..., 0], out=cross[..., 1])
            return
        joined = self.chosen(cross[..., :keys])
        cross[..., : joined.shape[-1]] = joined

    def chosen(self, cross: Tensor) -> Tensor:
        """The columns (b, n, width) of C (b, n, rep·L), each a sum of its own; no copy of C where it is these."""
        if cross.shape[-1] == self.prompt.num_tokens and self._unmoved:
            return cross
        folded = fold_repeats(cross, self.prompt.num_tokens)
        return torch.cat([select_columns(folded, kind, self.prompt) for kind in self.kinds], dim=-1)

    def split(self, columns: Tensor) -> dict[Columns, Tensor]:
        """The columns (b, n, w) of every kind, as views."""
        if self.width == columns.shape[2] and len(self.kinds) == 1:
            return dict.fromkeys(self.kinds, columns)
        return {kind: columns[..., place] for kind, place in self.kinds.items()}


def fold_repeats(maps: Tensor, tokens: int) -> Tensor:
    """(b, n, rep·L) → (b, n, L): a host may repeat the token axis; the copies' probabilities are summed."""
    return reduce(maps, "b n (rep l) -> b n l", "sum", l=tokens)


def kept_keys(prompts: Sequence[Prompt], rows: Sequence[slice], call: LayerCall) -> Tensor | None:
    """(b, m) bool: keys of a call that take part in its softmax; None where all do."""
    if not any(prompt.dead for prompt in prompts):
        return call.kept
    kept = torch.ones((len(call.k), call.layout.keys), dtype=torch.bool)
    for place, prompt in zip(rows, prompts, strict=True):
        for start in call.layout.text[:: prompt.num_tokens]:
            for index in prompt.dead:
                kept[place, start + index] = False
    kept = kept.to(call.k.device)
    return kept if call.kept is None else kept & call.kept
