"""The demo model's words: vocabulary, tokenizer, text encoder; and how the whole model is loaded and saved.

Only torch, einops and safetensors are imported here, so the text half also runs inside a host that has no
diffusers. The U-Net is built in `demo.unet`.

    model = load_model()                                  # demo/weights.safetensors
    ids = model.tokenizer(["a red circle", ""])           # (2, 20)
    context = model.text_encoder(ids)                     # (2, 20, 64)
    v = model.unet(x, t, encoder_hidden_states=context).sample
    scheduler = DDIMScheduler(**model.scheduler_config)   # v-prediction; keep set_alpha_to_one etc. as given
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .world import WORDS

DEFAULT = Path(__file__).with_name("weights.safetensors")
SPECIALS = ("<start>", "<end>", "<pad>")
START, END, PAD = range(3)
VOCABULARY = SPECIALS + WORDS
LENGTH = 20

CONFIG: dict[str, Any] = {
    "unet": {
        "sample_size": 32,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [32, 64, 96],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [1, 2, 3],
        "cross_attention_dim": 64,
        "norm_num_groups": 32,
    },
    "text": {"width": 64, "hidden": 128, "reach": 3},
    "scheduler": {
        "num_train_timesteps": 1000,
        "beta_schedule": "linear",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": True,
    },
}
"""Everything needed to rebuild the model; it travels in the metadata of the weights file.

`attention_head_dim` is diffusers' name for the number of heads per level: 32 channels a head everywhere.
"""


class UnknownWordError(ValueError):
    """A prompt has a word that the demo model never learned."""


class Tokenizer:
    """Words to ids: START, the words, END, then PAD up to `LENGTH`. Case and punctuation do not matter."""

    vocabulary = VOCABULARY
    length = LENGTH

    def __init__(self) -> None:
        self._ids = {word: i for i, word in enumerate(VOCABULARY)}

    def words(self, prompt: str) -> list[str]:
        """The prompt's words in order. Raises `UnknownWordError`, or ValueError when there are too many."""
        words = re.findall(r"[^\W\d_]+", prompt.lower())
        unknown = [w for w in words if w not in WORDS]
        if unknown:
            raise UnknownWordError(
                f"the demo model does not know {', '.join(map(repr, unknown))}; it knows: {', '.join(WORDS)}"
            )
        if len(words) > LENGTH - 2:
            raise ValueError(f"a prompt may have {LENGTH - 2} words, this one has {len(words)}")
        return words

    def __call__(self, prompts: list[str]) -> Tensor:
        """Token ids of the prompts: (B, 20), int64."""
        rows = [[START, *(self._ids[w] for w in self.words(p)), END] for p in prompts]
        return torch.tensor([row + [PAD] * (LENGTH - len(row)) for row in rows])


class TextEncoder(nn.Module):
    """Words to vectors that hardly mix: each word sees its nearest neighbours once, and nothing else.

    A colour is so bound to its noun and a noun to its place, yet every word keeps to itself and owns its own
    region of the picture. END and PAD are zero, so no word can hide its meaning in them. START is a constant in
    a channel of its own, in which all words stand against it: what draws the attention to any word pushes it
    away from START, whether or not there is a word to take it.
    """

    against_start = -0.5

    def __init__(self, width: int = 64, hidden: int = 128, reach: int = 3) -> None:
        super().__init__()
        inner = width - 1
        self.length = inner**0.5
        self.word = nn.Embedding(len(VOCABULARY), inner)
        self.neighbours = nn.Conv1d(inner, hidden, 2 * reach + 1, padding=reach)
        self.bind = nn.Linear(hidden, inner)
        self.norm = nn.LayerNorm(inner)

    def forward(self, ids: Tensor) -> Tensor:
        """ids (B, L) int64 -> context (B, L, width): channel 0 is START against words, the rest words."""
        is_word = (ids > PAD).unsqueeze(-1)
        x = self.word(ids) * is_word
        near = self.neighbours(rearrange(x, "b l c -> b c l"))
        x = x + self.bind(nn.functional.gelu(rearrange(near, "b c l -> b l c")))
        x = self.norm(x) * is_word
        start = (ids == START).unsqueeze(-1) + self.against_start * is_word
        return torch.cat([self.length * start, x], -1)


@dataclass
class DemoModel:
    """The model's parts and the config they were built from."""

    unet: nn.Module
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    config: dict[str, Any]

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """Arguments for diffusers' DDIMScheduler; DPMSolverMultistepScheduler takes the first five."""
        return dict(self.config["scheduler"])


def build_model(config: dict[str, Any] | None = None) -> DemoModel:
    """A model with fresh random weights. Needs diffusers."""
    from .unet import build_unet

    config = config or CONFIG
    return DemoModel(build_unet(config["unet"]), TextEncoder(**config["text"]), Tokenizer(), config)


def read_weights(path: str | Path = DEFAULT) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
    """The U-Net's state dict (diffusers names), the text encoder's, and the config. Needs no diffusers."""
    with safe_open(str(path), "pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    unet = {k.removeprefix("unet."): v for k, v in tensors.items() if k.startswith("unet.")}
    text = {k.removeprefix("text."): v for k, v in tensors.items() if k.startswith("text.")}
    return unet, text, config


def load_model(path: str | Path = DEFAULT, device: str | torch.device = "cpu") -> DemoModel:
    """The trained model in float32, in eval mode. Needs diffusers."""
    unet, text, config = read_weights(path)
    model = build_model(config)
    model.unet.load_state_dict(unet)
    model.text_encoder.load_state_dict(text)
    model.unet.to(device).eval()
    model.text_encoder.to(device).eval()
    return model


def save_model(model: DemoModel, path: str | Path = DEFAULT) -> None:
    """Write the weights in float16 with keys `unet.*` and `text.*`, and the config as metadata."""
    tensors = {f"unet.{k}": v for k, v in model.unet.state_dict().items()}
    tensors |= {f"text.{k}": v for k, v in model.text_encoder.state_dict().items()}
    half = {k: v.detach().to("cpu", torch.float16).contiguous() for k, v in tensors.items()}
    save_file(half, str(path), {"format": "pt", "config": json.dumps(model.config)})
