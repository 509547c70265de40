"""Train the demo model from nothing: `python -m demo.train [--resume FILE] [--steps N] [--threads N]`.

Runs on a CPU or on CUDA. State goes to `--out` every few hundred steps and holds everything needed to go
on: weights, averaged weights, optimisers, step. Pictures are drawn on the fly from the step's own seed, so a
resumed run sees what an uninterrupted one would have seen. `--export` writes the averaged weights.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .model import DEFAULT, PAD, DemoModel, build_model, save_model
from .muon import Muon
from .settings import Training
from .unet import SharesProcessor, start_text_attention, text_attentions, unfair_shares
from .world import Scenes, draw, pick

CHUNK = 1024


def alphas_cumprod(config: dict) -> Tensor:
    """The schedule's running product of 1 - beta: (1000,), float32, falling."""
    betas = torch.linspace(config["beta_start"], config["beta_end"], config["num_train_timesteps"])
    return (1 - betas).cumprod(0)


def sample_times(n: int, steps: int, s: Training, rng: torch.Generator) -> Tensor:
    """One t per picture, spread evenly over the wanted distribution: (n,), int64, range [0, steps)."""
    u = (torch.randperm(n, generator=rng) + torch.rand(n, generator=rng)) / n
    normal = torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4))
    shaped = torch.sigmoid(s.noise_mean + s.noise_spread * normal)
    even = torch.rand(n, generator=rng) < s.uniform_share
    return (torch.where(even, u, shaped) * steps).long().clamp(0, steps - 1)


class Feed:
    """Training batches: batch number i is the same whenever and wherever it is asked for."""

    def __init__(self, model: DemoModel, s: Training) -> None:
        self.model, self.s, self.chunk = model, s, (-1, None, None)

    def _load(self, number: int) -> tuple[Scenes, Tensor]:
        if self.chunk[0] != number:
            scenes = pick(draw(CHUNK, seed=self.s.seed * 1_000_003 + number), held_out=False)
            self.chunk = (number, scenes, self.model.tokenizer([d.caption for d in scenes.descriptions]))
        return self.chunk[1], self.chunk[2]

    def __call__(self, step: int) -> tuple[Tensor, Tensor, torch.Generator]:
        """Pictures (B, 3, 32, 32) in [-1, 1], token ids (B, 20), and the step's own source of chance."""
        per_chunk = CHUNK // self.s.batch * 4 // 5
        scenes, ids = self._load(step // per_chunk)
        rng = torch.Generator().manual_seed(self.s.seed * 7919 + step)
        first = step % per_chunk * self.s.batch
        rows = torch.arange(first, first + self.s.batch)
        ids, images = ids[rows].clone(), scenes.images[rows]
        ids[torch.rand(len(ids), generator=rng) < self.s.empty_prompts] = self.model.tokenizer([""])
        return images, ids, rng


def optimisers(model: DemoModel, s: Training) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network, AdamW for everything else."""
    attention, matrices, others = [], [], []
    for name, p in [*model.unet.named_parameters(), *model.text_encoder.named_parameters()]:
        edge = name.startswith(("conv_in", "conv_out", "word", "time_embedding"))
        if p.ndim < 2 or edge:
            others.append(p)
        else:
            (attention if ".to_q." in name or ".to_k." in name else matrices).append(p)
    groups = [{"params": matrices}, {"params": attention, "decay": s.attention_decay}]
    return [
        Muon(groups, s.matrix_rate, s.momentum),
        torch.optim.AdamW(others, s.other_rate, (0.9, 0.98), weight_decay=0),
    ]


def rate(step: int, s: Training) -> float:
    """Share of the full learning rate: up over `warmup`, flat, down over the last `cooldown` steps."""
    return min(1.0, (step + 1) / s.warmup, max(0.01, (s.steps - step) / s.cooldown))


class Trainer:
    """A run: its model, averaged model, optimisers and step."""

    def __init__(self, s: Training, device: str) -> None:
        torch.manual_seed(s.seed)
        self.s, self.device, self.step = s, device, 0
        self.model = build_model()
        start_text_attention(self.model.unet, s.start_logit, self.model.text_encoder.length)
        self.shares = []
        for _, attention in text_attentions(self.model.unet):
            attention.set_processor(SharesProcessor())
            self.shares.append(attention.processor)
        self.net = nn.ModuleList([self.model.unet, self.model.text_encoder]).to(device)
        self.mean = copy.deepcopy(self.net).requires_grad_(False)
        self.opts = optimisers(self.model, s)
        self.feed = Feed(self.model, s)
        self.abar = alphas_cumprod(self.model.config["scheduler"])
        self.bin_loss = torch.ones(s.noise_bins)

    def loss(self, images: Tensor, ids: Tensor, rng: torch.Generator) -> Tensor:
        """v-prediction error, each noise level divided by its own running mean, so that all count alike."""
        t = sample_times(len(images), len(self.abar), self.s, rng)
        noise = torch.randn(images.shape, generator=rng)
        a = self.abar[t].sqrt()[:, None, None, None]
        b = (1 - self.abar[t]).sqrt()[:, None, None, None]
        x, v = (a * images + b * noise).to(self.device), (a * noise - b * images).to(self.device)
        unet, text = self.net
        out = unet(x, t.to(self.device), encoder_hidden_states=text(ids.to(self.device))).sample
        error = (out - v).square().mean((1, 2, 3))
        which = t * self.s.noise_bins // len(self.abar)
        seen = error.detach().cpu()
        sums = torch.zeros_like(self.bin_loss).index_add_(0, which, seen)
        counts = torch.bincount(which, minlength=self.s.noise_bins)
        here = counts > 0
        keep = min(0.99, (self.step + 1) / (self.step + 10))
        self.bin_loss[here] = keep * self.bin_loss[here] + (1 - keep) * (sums / counts.clamp(min=1))[here]
        words = (ids > PAD).to(self.device)
        said = words.any(1)
        for processor in self.shares:
            processor.probabilities = processor.probabilities[said]
        unfair = unfair_shares(self.shares, words[said], self.s.least_share, self.s.most_rest)
        return (error / self.bin_loss[which].to(error)).mean() + self.s.share_weight * unfair

    def advance(self) -> float:
        """One step of training; returns the unweighted running loss."""
        loss = self.loss(*self.feed(self.step))
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), self.s.clip)
        for opt, full in zip(self.opts, (self.s.matrix_rate, self.s.other_rate), strict=True):
            for group in opt.param_groups:
                group["lr"] = full * rate(self.step, self.s)
            opt.step()
            opt.zero_grad()
        self.step += 1
        keep = min(self.s.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.mean.parameters()), list(self.net.parameters()), 1 - keep)
        return self.bin_loss.mean().item()

    def save(self, path: Path) -> None:
        """Everything needed to go on, written so that an interruption leaves the last good file."""
        state = {
            "step": self.step,
            "net": self.net.state_dict(),
            "mean": self.mean.state_dict(),
            "opts": [o.state_dict() for o in self.opts],
            "bin_loss": self.bin_loss,
        }
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def resume(self, path: Path) -> None:
        """Go on from a saved state."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.step, self.bin_loss = state["step"], state["bin_loss"]
        self.net.load_state_dict(state["net"])
        self.mean.load_state_dict(state["mean"])
        for opt, saved in zip(self.opts, state["opts"], strict=True):
            opt.load_state_dict({**saved, "param_groups": opt.state_dict()["param_groups"]})

    def export(self, path: Path) -> None:
        """Write the averaged weights as a model that `load_model` reads."""
        unet, text = self.mean
        save_model(replace(self.model, unet=unet, text_encoder=text), path)


def main() -> None:
    """Parse the arguments and train to the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/demo_training/last.pt"))
    parser.add_argument("--export", type=Path, nargs="?", const=DEFAULT, help="write the weights here at the end")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int)
    for field in fields(Training):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    trainer = Trainer(Training(**{f.name: getattr(args, f.name) for f in fields(Training)}), args.device)
    if args.resume:
        trainer.resume(args.resume)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    began, first = time.time(), trainer.step
    while trainer.step < trainer.s.steps:
        loss = trainer.advance()
        if trainer.step % trainer.s.report_every == 0:
            speed = (trainer.step - first) / (time.time() - began)
            left = (trainer.s.steps - trainer.step) / speed / 60
            bins = " ".join(f"{x:.3f}" for x in trainer.bin_loss[::3].tolist())
            print(
                f"step {trainer.step}  loss {loss:.4f}  by noise {bins}  {speed:.2f} steps/s  {left:.0f} min left",
                flush=True,
            )
        if trainer.step % trainer.s.save_every == 0 or trainer.step == trainer.s.steps:
            trainer.save(args.out)
    if args.export:
        trainer.export(args.export)


if __name__ == "__main__":
    main()
