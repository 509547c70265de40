"""Tiny random checkpoints, saved as diffusers and transformers save theirs."""

from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
)

from ..diffusers.tiny import make, text_parts


def save_pipeline(kind: str, folder: Path) -> Path:
    """A pipeline of this kind in diffusers' format; pictures of 16×16 pixels."""
    make(kind).save_pretrained(folder)
    return folder


def save_xl(folder: Path) -> Path:
    """SDXL with its two text encoders, whose widths add up to what the U-Net attends to."""
    parts, pipe = text_parts(), make("XL")
    config = parts["text_encoder"].config
    config.hidden_size, config.projection_dim = config.hidden_size // 2, 8
    torch.manual_seed(12)
    pipe.register_modules(
        tokenizer=parts["tokenizer"],
        tokenizer_2=parts["tokenizer"],
        text_encoder=CLIPTextModel(config).eval(),
        text_encoder_2=CLIPTextModelWithProjection(config).eval(),
    )
    pipe.save_pretrained(folder)
    return folder


def save_controlnet(folder: Path) -> Path:
    """A ControlNet for the U-Net of "SD 1.5"; its last convolutions say something."""
    make("ControlNet").controlnet.save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP that judges texts against pictures of 16×16 pixels."""
    torch.manual_seed(13)
    text = text_parts()
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
    words = text["text_encoder"].config.to_dict()
    CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(images, text["tokenizer"]).save_pretrained(folder)
    return folder
