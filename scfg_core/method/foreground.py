"""Eq. 14: the foreground, from the unconditional rows.

    m_b[s] = 1 where Ĉ_START[s] < Ĉ_rest[s]

where Ĉ_START and Ĉ_rest are the maps of START and of the sum of all other tokens, each divided by its spatial mean
(`assign.renormalise`). With rows that sum to 1 this is: where START's map lies below its mean. A tie is background.
This is how the authors compute it; the literal reading, where START does not win among all L tokens, is
`Settings.foreground_rule = "argmax"`.
"""

import torch
from torch import Tensor

FLAT_START_SPREAD = 1e-3
"""A START map whose (max − min) is below this share of its mean does not separate foreground from background."""


def foreground(start: Tensor, rest: Tensor) -> Tensor:
    """m_b (B, n) bool from Ĉ_START and Ĉ_rest, (B, n) each (Eq. 14)."""
    return start < rest


def varies(start: Tensor) -> Tensor:
    """(B,) bool: whether START's renormalised map (B, n), whose mean is 1, varies over space: it says something."""
    lowest, highest = start.aminmax(dim=1)
    return highest - lowest >= FLAT_START_SPREAD


def varies_within(start: Tensor, support: Tensor) -> Tensor:
    """(B,) bool: the same over its support (b, n) bool, whatever its mean there."""
    support = support.expand_as(start)
    highest = torch.where(support, start, -torch.inf).amax(dim=1)
    lowest = torch.where(support, start, torch.inf).amin(dim=1)
    mean = torch.where(support, start, 0.0).sum(dim=1) / support.sum(dim=1).clamp(min=1)
    return highest - lowest >= FLAT_START_SPREAD * mean
