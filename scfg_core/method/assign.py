"""Eq. 9: which token owns each patch.

    Ĉ[s, i] = C̄[s, i] / mean_s'(C̄[s', i])            `renormalise`
    i_s = argmax_i Ĉ[s, i]                            `assign`

where C̄ (B, n, L) are the fused maps. Without the division START would own every patch. The mean in place of the
paper's sum changes a constant that all tokens share. A tie goes to the lowest index.
"""

import torch
from torch import Tensor

TIE = 5e-6
"""Relative difference below which two scores are a tie: rounding must not choose between identical tokens."""


def renormalise(maps: Tensor, weight: Tensor | None = None) -> Tensor:
    """Ĉ (B, n, L): every column of C̄ ≥ 0 divided by its spatial mean; a column without mass stays 0.

    `weight` (b, n, 1), b = 1 or B: weights of the mean, where a prompt acts on a part of the image.
    """
    if weight is None:
        mean = maps.mean(dim=1, keepdim=True)
    else:
        mean = (maps * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
    return (maps / mean).nan_to_num_(0.0, 0.0, 0.0)  # 0/0, and what is not finite


def assign(scores: Tensor) -> Tensor:
    """Index (…,) int64 of the highest of scores Ĉ (…, L) ≥ 0; the lowest index of those that are tied."""
    tied = scores >= scores.amax(dim=-1, keepdim=True) * (1 - TIE)
    return tied.view(torch.uint8).argmax(dim=-1)
