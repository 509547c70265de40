"""What all stages of training share: batches, noise levels, schedule, averaged weights, a state to resume."""

from __future__ import annotations

import copy
import math
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import reduce
from torch import Tensor, nn

from ..drawing import draw, to_float
from ..model import DemoModel, save_model
from ..wavelet import encode
from ..world import GROUND, captions, training_scenes
from .attention import GRID
from .settings import Schedule

STEPS_PER_CHUNK = 32
"""Scenes are drawn for so many steps at a time."""


@dataclass(frozen=True)
class Batch:
    """Scenes that are not held out.

    latents (B, 12, 32, 32); ids (B, 24): tokens of the captions; things (B, 256): how much of each patch of the
    attention grid is thing.
    """

    latents: Tensor
    ids: Tensor
    things: Tensor


class Feed:
    """Training batches: batch number i is the same whenever it is asked for, on one kind of device."""

    def __init__(self, batch: int, seed: int, device: str) -> None:
        self.batch, self.seed, self.device = batch, seed, device
        self._number, self._chunk = -1, ()

    def __call__(self, step: int) -> Batch:
        number, place = divmod(step, STEPS_PER_CHUNK)
        if number != self._number:
            self._number, self._chunk = number, self._draw(self.seed * 1_000_003 + number)
        rows = slice(place * self.batch, (place + 1) * self.batch)
        images, owners, ids = (part[rows] for part in self._chunk)
        things = reduce((owners < GROUND).float(), "b (h y) (w x) -> b (h w)", "mean", h=GRID, w=GRID)
        return Batch(encode(to_float(images)), ids, things)

    def _draw(self, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        count = STEPS_PER_CHUNK * self.batch
        scenes = training_scenes(count * 5 // 4 + 64, seed)[:count]
        images, owners = draw(scenes, seed, self.device)
        return images, owners, captions(scenes)[0].to(self.device)


def alphas_cumprod(config: dict[str, Any]) -> Tensor:
    """The schedule's running product of 1 − β: (1000,), float32, falling."""
    betas = torch.linspace(config["beta_start"], config["beta_end"], config["num_train_timesteps"])
    return (1 - betas).cumprod(0)


def sample_times(count: int, steps: int, s: Schedule, rng: torch.Generator) -> Tensor:
    """One t per image, spread evenly over the wanted distribution: (count,), int64, range [0, steps)."""
    device = rng.device
    u = (
        torch.randperm(count, generator=rng, device=device) + torch.rand(count, generator=rng, device=device)
    ) / count
    normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
    shaped = torch.sigmoid(s.noise_mean + s.noise_spread * normal)
    even = torch.rand(count, generator=rng, device=device) < s.uniform_share
    return (torch.where(even, u, shaped) * steps).long().clamp(0, steps - 1)


def rate(step: int, progress: float, s: Schedule) -> float:
    """Share of the full learning rate: up over `warmup` steps, flat, down over the last `cooldown` of the stage."""
    return min(1.0, (step + 1) / s.warmup, max(s.floor, (1 - progress) / s.cooldown))


LEVELS = 1000
"""Noise levels t: 0 … 999."""


class Stage(ABC):
    """A run of training: what it trains, the average of that, optimisers with their full rates, and step."""

    def __init__(self, trained: nn.Module, s: Schedule, device: str) -> None:
        self.s, self.device, self.step, self.spent = s, device, 0, 0.0
        self.trained = trained.to(device)
        self.mean = copy.deepcopy(self.trained).requires_grad_(False)
        self.optimisers = self.make_optimisers()
        self.full_rates = [optimiser.param_groups[0]["lr"] for optimiser in self.optimisers]
        self.feed = Feed(s.batch, s.seed, device)
        self.bin_loss = torch.ones(s.noise_bins, device=device)

    @abstractmethod
    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """The optimisers, at their full learning rates."""

    @abstractmethod
    def loss(self, rng: torch.Generator) -> Tensor:
        """The loss of this step, which `rng` and `self.step` decide."""

    @abstractmethod
    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """How much signal and how much noise there is at t (B,): (B, 1, 1, 1) each."""

    @abstractmethod
    def export(self, path: Path) -> None:
        """Write the averaged weights as a model that can be loaded."""

    @property
    def progress(self) -> float:
        """How much of the stage is done, 0…1, by steps or by the clock."""
        return max(self.step / self.s.steps, self.spent / self.s.seconds)

    def noised(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Latents at noise level t (B,)."""
        a, b = self.signal_and_noise(t)
        return a * x0 + b * noise

    def balanced(self, error: Tensor, t: Tensor) -> Tensor:
        """Mean of errors (B,), each over the running mean of its noise level, so that all levels count alike."""
        which = t * self.s.noise_bins // LEVELS
        sums = torch.zeros_like(self.bin_loss).index_add_(0, which, error.detach())
        counts = torch.zeros_like(self.bin_loss).index_add_(0, which, torch.ones_like(error))
        keep = min(0.99, (self.step + 1) / (self.step + 10))
        running = keep * self.bin_loss + (1 - keep) * sums / counts.clamp(min=1)
        self.bin_loss = torch.where(counts > 0, running, self.bin_loss)
        return (error / self.bin_loss[which]).mean()

    def advance(self) -> None:
        """One step of training."""
        began = time.monotonic()
        share = rate(self.step, self.progress, self.s)
        loss = self.loss(torch.Generator(self.device).manual_seed(self.s.seed * 7919 + self.step))
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), self.s.clip)
        for optimiser, full in zip(self.optimisers, self.full_rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = full * share
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        weight = 1 / (10 + self.s.averaging * self.step)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.mean.parameters()), list(self.trained.parameters()), weight)
        self.step += 1
        self.spent += time.monotonic() - began

    def run(self, state: Path) -> None:
        """Train to the end; the state is written now and then."""
        state.parent.mkdir(parents=True, exist_ok=True)
        while self.progress < 1:
            self.advance()
            if self.step % self.s.report_every == 0 or self.progress >= 1:
                print(
                    f"step {self.step}, {self.progress:.0%} done, {self.spent:.0f} s: {self.report()}", flush=True
                )
            if self.step % self.s.save_every == 0 or self.progress >= 1:
                self.save(state)

    def report(self) -> str:
        """What is printed of a step: the running error by noise level."""
        error = self.bin_loss.mean().item()
        if not math.isfinite(error):
            raise RuntimeError(f"training diverged at step {self.step}: resume an earlier state with a lower rate")
        return f"error {error:.4f}"

    def save(self, path: Path) -> None:
        """Everything needed to go on, written so that an interruption leaves the last good file."""
        state = {
            "step": self.step,
            "spent": self.spent,
            "trained": self.trained.state_dict(),
            "mean": self.mean.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "bin_loss": self.bin_loss,
        }
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def resume(self, path: Path) -> None:
        """Go on from a saved state; steps, seconds and rates are those of this stage, not of its past."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.step, self.spent, self.bin_loss = state["step"], state["spent"], state["bin_loss"]
        self.trained.load_state_dict(state["trained"])
        self.mean.load_state_dict(state["mean"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict({**saved, "param_groups": optimiser.state_dict()["param_groups"]})


class Diffusion(Stage):
    """A stage of the U-Net: v-prediction along its schedule."""

    def __init__(self, model: DemoModel, trained: nn.Module, s: Schedule, device: str) -> None:
        self.model = model
        super().__init__(trained, s, device)
        self.alphas_cumprod = alphas_cumprod(model.config["scheduler"]).to(device)

    @abstractmethod
    def averaged(self) -> DemoModel:
        """The model with the averaged weights."""

    def velocity(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What v-prediction predicts."""
        a, b = self.signal_and_noise(t)
        return a * noise - b * x0

    def signal_and_noise(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha = self.alphas_cumprod[t][:, None, None, None]
        return alpha.sqrt(), (1 - alpha).sqrt()

    def predict(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """v (B, 12, 32, 32); on CUDA in bfloat16."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.is_cuda):
            return self.model.unet(x, t, encoder_hidden_states=self.model.text_encoder(ids)).sample.float()

    def export(self, path: Path) -> None:
        """Write the averaged weights as a model that `load_model` reads."""
        save_model(self.averaged(), path)


class WholeModel(Diffusion):
    """A stage that trains the U-Net and the text encoder."""

    mean: nn.ModuleList

    def __init__(self, model: DemoModel, s: Schedule, device: str) -> None:
        super().__init__(model, nn.ModuleList([model.unet, model.text_encoder]), s, device)

    def averaged(self) -> DemoModel:
        unet, text_encoder = self.mean
        return replace(self.model, unet=unet, text_encoder=text_encoder)
