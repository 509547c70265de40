"""Muon: momentum whose every matrix step is made orthogonal (Jordan et al., 2024). Fewer steps than AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrix with singular values near 1, by the quintic Newton-Schulz iteration: (m, n)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """For parameters of two or more axes; the trailing axes of a kernel count as one.

    `groups` may set their own `decay`: each step shrinks the weights by lr * decay first.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(velocity, group["momentum"]).flatten(1)
                scale = max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(orthogonal(ahead).reshape_as(p), alpha=-group["lr"] * scale)
