"""A transformer from nothing: flow matching of scenes with their captions, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..joint.model import (
    TransformerModel,
    blank_channels,
    build_transformer,
    config_of,
    save_transformer,
)
from .muon import Muon, has_bfloat16
from .settings import FlowTraining
from .stage import LEVELS, Stage, sample_times


class Flow(Stage):
    """The velocity noise − x0 along the straight line from image to noise (arXiv 2210.02747, 2403.03206)."""

    s: FlowTraining

    def __init__(self, architecture: str, s: FlowTraining, device: str) -> None:
        torch.manual_seed(s.seed)
        self.model: TransformerModel = build_transformer(config_of(architecture, s.depth))
        self.model.text_encoder.to(device)
        self.half = has_bfloat16(torch.device(device))
        super().__init__(self.model.transformer, s, device)

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the blocks, AdamW for everything else, the modulation included."""
        matrices, others = [], []
        for name, parameter in self.trained.named_parameters():
            inside = "blocks." in name and "adaLN" not in name and parameter.ndim == 2
            (matrices if inside else others).append(parameter)
        return [
            Muon([{"params": matrices}], self.s.matrix_rate, self.s.momentum),
            torch.optim.AdamW(others, self.s.other_rate, (0.9, 0.98), weight_decay=0),
        ]

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.sigma(t)[:, None, None, None]
        return 1 - sigma, sigma

    @staticmethod
    def sigma(t: Tensor) -> Tensor:
        """σ of noise level t (B,), 0 … 999: 0.001 … 1."""
        return (t + 1) / LEVELS

    def loss(self, rng: torch.Generator) -> Tensor:
        batch = self.feed(self.step)
        x0, ids = blank_channels(batch.latents), batch.ids
        dropped = torch.rand(len(ids), generator=rng, device=self.device) < self.s.empty_prompts
        ids = torch.where(dropped[:, None], self.model.tokenizer([""]).to(self.device), ids)
        t = sample_times(len(ids), LEVELS, self.s, rng)
        noise = torch.randn(x0.shape, generator=rng, device=self.device)
        out = self.predict(self.noised(x0, t, noise), t, ids)
        return self.balanced((out - (noise - x0)).square().mean((1, 2, 3)), t)

    def predict(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """The velocity (B, 16, 32, 32); where that is fast, by a bfloat16 copy of the weights."""
        weights = dict(self.trained.named_parameters())
        dtype = torch.bfloat16 if self.half else torch.float32
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
        network = _Bound(self.trained, weights)
        model = replace(self.model, transformer=network)
        context = model.context(ids).to(dtype)
        return model.velocity(x.to(dtype), self.sigma(t), context).float()

    def export(self, path: Path) -> None:
        save_transformer(replace(self.model, transformer=self.mean), path)


class _Bound(nn.Module):
    """A module that computes with other weights than its own."""

    def __init__(self, module: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.call = lambda *inputs: functional_call(module, weights, inputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.call(*inputs)
