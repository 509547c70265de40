"""The demo model as a whole: its config, and how it is built, loaded and saved.

model = load_model()                                  # demo/weights.safetensors
ids = model.tokenizer(["a red boat on water", ""])    # (2, 24)
context = model.text_encoder(ids)                     # (2, 24, 64)
v = model.unet(x, t, encoder_hidden_states=context).sample   # x: latents (2, 12, 32, 32), see demo.wavelet
scheduler = DDIMScheduler(**model.scheduler_config)   # v-prediction; keep set_alpha_to_one etc. as given
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from . import wavelet
from .text import TextEncoder, Tokenizer
from .words import VOCABULARY

DEFAULT = Path(__file__).with_name("weights.safetensors")

CONFIG: dict[str, Any] = {
    "unet": {
        "sample_size": 32,
        "in_channels": wavelet.CHANNELS,
        "out_channels": wavelet.CHANNELS,
        "block_out_channels": [64, 128, 128],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [2, 4, 4],
        "cross_attention_dim": 64,
        "norm_num_groups": 32,
    },
    "text": {"width": 64, "hidden": 128, "reach": 3},
    "latent": {"wavelet": "haar", "low": wavelet.LOW, "high": wavelet.HIGH},
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

`attention_head_dim` is diffusers' name for the number of heads per level: 32 channels a head everywhere. ComfyUI
wants widths that are whole multiples of the first.
"""


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
    unet = {key.removeprefix("unet."): value for key, value in tensors.items() if key.startswith("unet.")}
    text = {key.removeprefix("text."): value for key, value in tensors.items() if key.startswith("text.")}
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
    """Write the weights in float16 with keys `unet.*` and `text.*`; config and words are the metadata."""
    tensors = {f"unet.{key}": value for key, value in model.unet.state_dict().items()}
    tensors |= {f"text.{key}": value for key, value in model.text_encoder.state_dict().items()}
    half = {key: value.detach().to("cpu", torch.float16).contiguous() for key, value in tensors.items()}
    metadata = {"format": "pt", "config": json.dumps(model.config), "words": json.dumps(VOCABULARY)}
    save_file(half, str(path), metadata)
