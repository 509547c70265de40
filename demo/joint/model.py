"""A transformer of the picture book as a whole: its config, and how it is built, loaded and saved.

model = load_transformer("out/training/mmdit.safetensors")
context = model.context(model.tokenizer(["a red boat on water", ""]))     # (2, 24, 64)
v = model.velocity(x, sigma, context)         # x: latents (2, 16, 32, 32), see `to_latents`; sigma (2,), range 0…1
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .. import wavelet
from ..model import read_weights
from ..text import TextEncoder, Tokenizer
from .cross import CrossDiT
from .mmdit import MMDiT

CHANNELS = 16
"""Channels of the latent: the wavelet's 12, and 4 of zeros, because Stable Diffusion 3 has 16."""

CELLS = 32
"""Side of the latent."""

POOLED = 64
"""Channels of the pooled text, all 0: what the model knows of the text it has through its attention."""

NULL_COLUMNS = 64
"""Columns that a model of architecture "cross" has: the tokens, then zeros."""

ARCHITECTURES: dict[str, type[nn.Module]] = {"mmdit": MMDiT, "cross": CrossDiT}

PREFIX = "model.diffusion_model."
"""Of the transformer's names in a file, as ComfyUI expects them."""


@dataclass
class TransformerModel:
    """The model's parts and the config they were built from."""

    transformer: nn.Module
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    config: dict[str, Any]

    @torch.no_grad()
    def context(self, ids: Tensor) -> Tensor:
        """Token ids (B, 24) → text (B, L, 64); END and padding are zeros, and so is what "cross" fills up with."""
        context = self.text_encoder(ids)
        columns = NULL_COLUMNS if self.config["architecture"] == "cross" else ids.shape[1]
        return F.pad(context, (0, 0, 0, columns - ids.shape[1]))

    def velocity(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        """noise − x0, of x = (1 − σ) x0 + σ noise (B, 16, 32, 32), σ (B,)."""
        return self.transformer(x, sigma, context)


def to_latents(images: Tensor) -> Tensor:
    """Images (B, 3, 64, 64), range −1…1 → latents (B, 16, 32, 32)."""
    return blank_channels(wavelet.encode(images))


def to_images(latents: Tensor) -> Tensor:
    """Latents (B, 16, 32, 32) → images (B, 3, 64, 64)."""
    return wavelet.decode(latents[:, : wavelet.CHANNELS])


def blank_channels(latents: Tensor) -> Tensor:
    """The wavelet's latents (B, 12, h, w) and 4 channels of zeros."""
    return F.pad(latents, (0, 0, 0, 0, 0, CHANNELS - wavelet.CHANNELS))


def config_of(architecture: str, depth: int) -> dict[str, Any]:
    """What a transformer is built from. Raises KeyError for an unknown architecture."""
    text = read_weights()[2]["text"]
    sizes: dict[str, Any] = {"depth": depth, "patch": 2, "channels": CHANNELS, "context": text["width"]}
    if architecture == "mmdit":
        sizes |= {"pooled": POOLED, "grid": CELLS // 2}
    return {"architecture": architecture, "transformer": sizes, "text": text}


def build_transformer(config: dict[str, Any]) -> TransformerModel:
    """A transformer with fresh random weights, and the demo model's text encoder."""
    encoder = TextEncoder(**config["text"])
    encoder.load_state_dict(read_weights()[1])
    encoder.eval().requires_grad_(False)
    transformer = ARCHITECTURES[config["architecture"]](**config["transformer"])
    return TransformerModel(transformer, encoder, Tokenizer(), config)


def load_transformer(path: str | Path, device: str | torch.device = "cpu") -> TransformerModel:
    """A trained transformer in float32, in eval mode."""
    with safe_open(str(path), "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    model = build_transformer(config)
    model.transformer.load_state_dict({key.removeprefix(PREFIX): value for key, value in tensors.items()})
    model.transformer.to(device).eval()
    model.text_encoder.to(device)
    return model


def save_transformer(model: TransformerModel, path: str | Path) -> None:
    """Write the transformer in float16; its config is the metadata, its text encoder the demo model's."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    state = model.transformer.state_dict()
    half = {PREFIX + key: value.detach().to("cpu", torch.float16).contiguous() for key, value in state.items()}
    save_file(half, str(path), {"format": "pt", "config": json.dumps(model.config)})
