"""Dead text keys: a mask takes them out of the softmax, so they are dropped before it."""

from dataclasses import replace

import torch
from torch import Tensor

from ..method.fusion import consecutive
from ..prompt import Prompt
from .calls import Layout


def drop_dead(k: Tensor, layout: Layout, prompt: Prompt) -> tuple[Tensor, Layout]:
    """Keys k (b, H, m, d) without the prompt's dead columns, and where text and image stand among them then."""
    if not prompt.dead or len(layout.text) != prompt.num_tokens:
        return k, layout
    first, dead = layout.text.start, set(prompt.dead)
    kept = consecutive([key for key in range(layout.keys) if key - first not in dead])
    text = range(first, layout.text.stop - len(dead))
    image, missing = layout.image, len(dead) if layout.image.start > first else 0
    image = range(image.start - missing, image.stop - missing) if image else image
    k = torch.cat([k[:, :, run.start : run.stop] for run in kept], dim=2)
    return k, replace(layout, keys=layout.keys - len(dead), text=text, image=image)


def restore_dead(cross: Tensor, prompt: Prompt) -> Tensor:
    """C (b, n, L − dead) with columns of zeros for the dead ones, (b, n, L)."""
    if cross.shape[-1] == prompt.num_tokens or not prompt.dead:
        return cross
    parts, read = [], 0
    dead = set(prompt.dead)
    for run in consecutive([column for column in range(prompt.num_tokens) if column not in dead]):
        gap = run.start - sum(part.shape[-1] for part in parts)
        parts += [cross.new_zeros((*cross.shape[:-1], gap)), cross[..., read : read + len(run)]]
        read += len(run)
    parts.append(cross.new_zeros((*cross.shape[:-1], prompt.num_tokens - sum(part.shape[-1] for part in parts))))
    return torch.cat(parts, dim=-1)
