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


def widths(prompt: Prompt, settings: Settings) -> dict[Columns, int]:
    """How many columns a prompt needs of every kind, in their order."""
    count: dict[Columns, int] = {"tokens": len(prompt.owners), "start_and_rest": 2}
    return {kind: count[kind] for kind in columns_of_branch(prompt.branch, settings)}


def arrange(cross: Tensor, keys: int, prompt: Prompt, settings: Settings, whole: bool = True) -> None:
    """Bring the prompt's columns to the front of C (b, n, w), which has `keys` columns of whole repeats.

    whole  rows of C sum to 1; not in a joint layer.
    """
    kinds = tuple(widths(prompt, settings))
    tokens = prompt.num_tokens
    if whole and kinds == ("start_and_rest",) and keys == tokens and prompt.start_tokens == (0,):
        torch.sub(constant(1.0, cross.dtype, cross.device), cross[..., 0], out=cross[..., 1])
        return
    if kinds == ("tokens",) and keys == tokens == len(prompt.owners) and len(prompt.start_tokens) < 2:
        return
    folded = fold_repeats(cross[..., :keys], tokens)
    chosen = [select_columns(folded, kind, prompt) for kind in kinds]
    joined = torch.cat(chosen, dim=-1)
    cross[..., : joined.shape[-1]] = joined


def split(columns: Tensor, prompt: Prompt, settings: Settings) -> dict[Columns, Tensor]:
    """The columns (b, n, w) of every kind, as views."""
    found, first = {}, 0
    for kind, width in widths(prompt, settings).items():
        found[kind] = columns[..., first : first + width]
        first += width
    return found


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
