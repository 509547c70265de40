"""Tiny random checkpoints, saved as diffusers and transformers save theirs."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

WIDTH = 16
SPECIALS = ("<|startoftext|>", "<|endoftext|>")


def tokenizer() -> CLIPTokenizer:
    """Letters are tokens, as they are and at the end of a word."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *[f"{letter}</w>" for letter in letters], *SPECIALS]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=20)


def text_config() -> CLIPTextConfig:
    size = len(tokenizer())
    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=20,
        projection_dim=WIDTH,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )


def save_stable_diffusion(folder: Path) -> Path:
    """SD 1.5's shape: two levels with attention, an autoencoder that halves; pictures of 16×16 pixels."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        norm_num_groups=4,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    StableDiffusionPipeline(
        autoencoder,
        CLIPTextModel(text_config()),
        tokenizer(),
        unet,
        DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def save_controlnet(folder: Path, unet: UNet2DConditionModel) -> Path:
    """A ControlNet for the U-Net of such a pipeline; its zero convolutions say something."""
    torch.manual_seed(1)
    network = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    for block in network.controlnet_down_blocks:
        torch.nn.init.normal_(block.weight, std=0.5)
    network.save_pretrained(folder)
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP that judges texts against pictures of 16×16 pixels."""
    torch.manual_seed(2)
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
        "projection_dim": WIDTH,
    }
    config = CLIPConfig(text_config=text_config().to_dict(), vision_config=vision, projection_dim=WIDTH)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(images, tokenizer()).save_pretrained(folder)
    return folder
