"""Muon: momentum whose every matrix step is made orthogonal (Jordan et al., 2024). Fewer steps than AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are fast there."""
    return device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """The nearest matrices with singular values near 1, by the quintic Newton-Schulz iteration: (k, m, n)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.bfloat16() if has_bfloat16(x.device) else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices)


class Muon(Optimizer):
    """For parameters of two or more axes; the trailing axes of a kernel count as one. Equal shapes go together.

    `groups` may set their own `decay`: each step shrinks the weights by lr * decay first.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.flatten(1).shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                gradients = torch.stack([parameter.grad.flatten(1) for parameter in parameters])
                velocity = self.state[parameters[0]].setdefault("velocity", torch.zeros_like(gradients))
                velocity.lerp_(gradients, 1 - group["momentum"])
                steps = orthogonal(gradients.lerp(velocity, group["momentum"]))
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["decay"])
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter.add_(step.reshape_as(parameter), alpha=-group["lr"] * scale)
