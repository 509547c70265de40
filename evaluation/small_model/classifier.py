"""The eyes of the Fréchet distance on the small model's pictures: a network that learned to see their world.

Trained on true scenes, within a few minutes on one core, to say which coloured shapes a picture holds and what its
background is; the features are its last layer before the answers. It never sees a drawn picture while it learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn
from tqdm import trange

from demo.world import COLOURS, SHAPES, Scenes, draw

from ..store import Pixels, write_whole
from .system import from_pixels

FEATURES = 64
STEPS, BATCH, RATE, SEED = 4000, 64, 3e-3, 64


class Classifier(nn.Module):
    """Pictures (N, 3, 32, 32), range −1…1 → `features` (N, 64) → logits of 8 × 4 coloured shapes, 8 grounds."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 48, 5, stride=2, padding=2),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            *_stage(48, 64),
            *_stage(64, 96),
            nn.Flatten(),
            nn.Linear(96 * 16, FEATURES),
            nn.ReLU(),
        )
        self.shapes = nn.Linear(FEATURES, len(COLOURS) * len(SHAPES))
        self.ground = nn.Linear(FEATURES, len(COLOURS))

    def features(self, pictures: Tensor) -> Tensor:
        return self.body(pictures)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(pictures)
        return self.shapes(features), self.ground(features)


def _stage(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]


def truth(scenes: Scenes) -> Tensor:
    """Which coloured shapes each scene holds: (N, 32) of 0 and 1."""
    found = torch.zeros(len(scenes), len(COLOURS) * len(SHAPES))
    for row, told in zip(found, scenes.descriptions, strict=True):
        for phrase in told.phrases:
            row[phrase.colour * len(SHAPES) + phrase.shape] = 1
    return found


def train(steps: int = STEPS) -> Classifier:
    """A classifier from scratch, the same from the same seed."""
    torch.manual_seed(SEED)
    model = Classifier().train()
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    for step in trange(steps, desc="classifier", unit="step"):
        scenes = draw(BATCH, seed=10_000_000 + step)
        shapes, ground = model(scenes.images)
        loss = F.binary_cross_entropy_with_logits(shapes, truth(scenes)) * 10
        loss = loss + F.cross_entropy(ground, scenes.backgrounds)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rate.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: Classifier, scenes: Scenes) -> tuple[float, float]:
    """Shares of true scenes whose coloured shapes are all told right, and whose background is."""
    shapes, ground = model(scenes.images)
    whole = ((shapes > 0).float() == truth(scenes)).all(dim=1)
    return float(whole.float().mean()), float((ground.argmax(1) == scenes.backgrounds).float().mean())


def load_or_train(path: Path) -> Classifier:
    """The classifier kept at `path`, trained and kept there the first time."""
    if not path.exists():
        write_whole(path, save(train().state_dict()))
    model = Classifier().eval()
    model.load_state_dict(load_file(path))
    return model


@torch.no_grad()
def features_of_pictures(model: Classifier, images: Sequence[Pixels]) -> Tensor:
    """Features (N, 64) of pictures (32, 32, 3) uint8."""
    return model.features(from_pixels(images))
