"""Tiny random pipelines of every kind that the paper uses, of diffusers' own classes, and how each is called."""

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DDPMScheduler,
    IFPipeline,
    IFSuperResolutionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH = 12
"""Of the text."""

GAMMA = 5.0
SD = (StableDiffusionPipeline, {})
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SD 1.5": SD,
    "SD 2.1, v-prediction": (StableDiffusionPipeline, {"prediction": "v_prediction"}),
    "img2img": (StableDiffusionImg2ImgPipeline, {}),
    "inpaint": (StableDiffusionInpaintPipeline, {"in_channels": 9}),
    "ControlNet": (StableDiffusionControlNetPipeline, {"controlnets": 1}),
    "MultiControlNet": (StableDiffusionControlNetPipeline, {"controlnets": 2}),
    "XL": (StableDiffusionXLPipeline, {}),
    "XL img2img": (StableDiffusionXLImg2ImgPipeline, {}),
    "XL inpaint": (StableDiffusionXLInpaintPipeline, {"in_channels": 9}),
    "IF I": (IFPipeline, {}),
    "IF II": (IFSuperResolutionPipeline, {}),
}


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(kind: str) -> Any:
    """A pipeline of this kind; the same at every call."""
    cls, options = KINDS[kind]
    torch.manual_seed(0)
    pipe = _floyd(cls) if kind.startswith("IF") else _stable(cls, kind.startswith("XL"), **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def arguments(kind: str, images: int = 1, height: int = 16, width: int = 16, tokens: int = 7) -> dict[str, Any]:
    """What this kind is called with: 3 steps, `images` prompts of `tokens` tokens, pictures where it wants them."""
    call: dict[str, Any] = {
        "prompt_embeds": random(images, tokens, WIDTH),
        "negative_prompt_embeds": random(images, tokens, WIDTH, seed=2),
        "guidance_scale": GAMMA,
        "num_inference_steps": 3,
        "generator": torch.Generator().manual_seed(3),
        "output_type": "pt",
    }
    picture = random(images, 3, height, width, seed=4).sigmoid()
    if kind.startswith("XL"):
        call |= {
            "pooled_prompt_embeds": random(images, 8),
            "negative_pooled_prompt_embeds": random(images, 8, seed=2),
        }
    if "img2img" in kind:
        return call | {"image": picture, "strength": 0.7}
    call |= {"height": height, "width": width}
    if "inpaint" in kind:
        return call | {"image": picture, "mask_image": (picture[:, :1] > 0.5).float(), "strength": 1.0}
    if "Control" in kind:
        return call | {"image": [picture] * 2 if "Multi" in kind else picture}
    if kind == "IF II":
        return call | {"image": picture[..., ::2, ::2] * 2 - 1, "noise_level": 100}
    return call


def names_its_scale(kind: str) -> bool:
    return not kind.startswith("IF")


def sample(pipe: Any, kind: str, **call: Any) -> Tensor:
    """Pictures (B, 3, H, W)."""
    return pipe(**(arguments(kind) | call)).images


def text_parts() -> dict[str, Any]:
    """A tokenizer that spells, and CLIP's text encoder."""
    letters = list(string.ascii_lowercase)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    config = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=WIDTH,
        intermediate_size=8,
        num_attention_heads=2,
        num_hidden_layers=1,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
    )
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    return {"tokenizer": tokenizer, "text_encoder": CLIPTextModel(config).eval()}


def _stable(cls: Any, xl: bool, in_channels: int = 4, prediction: str = "epsilon", controlnets: int = 0) -> Any:
    attends = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
    more: dict[str, Any] = {"transformer_layers_per_block": 1}
    if xl:
        more = {
            "transformer_layers_per_block": (1, 1, 2),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 8,
            "use_linear_projection": True,
        }
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D" if xl else attends[0], attends[0], attends[0] if xl else "DownBlock2D"),
        up_block_types=(attends[1] if xl else "UpBlock2D", attends[1], "UpBlock2D" if xl else attends[1]),
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
        norm_num_groups=4,
        **more,
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=16,
    )
    parts: dict[str, Any] = {
        "unet": unet.eval(),
        "vae": vae.eval(),
        "scheduler": DDIMScheduler(
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
        "text_encoder": None,
        "tokenizer": None,
    }
    if xl:
        return cls(**parts, text_encoder_2=None, tokenizer_2=None)
    if controlnets:
        nets = [_controlnet(unet) for _ in range(controlnets)]
        parts["controlnet"] = nets[0] if controlnets == 1 else nets
    return cls(**parts | text_parts(), safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def _controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """One that says something: its last convolutions are not zero."""
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4)).eval()
    for block in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(block.weight, std=0.1)
    return net


def floyd_unet(stage: int, **more: Any) -> UNet2DConditionModel:
    """DeepFloyd's layout: joint attention at two levels, a learned variance; stage 2 is given (noisy, upscaled)."""
    options: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 3 * stage,
        "out_channels": 6,
        "block_out_channels": (8, 8, 16),
        "layers_per_block": 1,
        "down_block_types": ("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 2),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": (*["SimpleCrossAttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"),
        "attention_head_dim": 4,
        "cross_attention_dim": 32,
        "encoder_hid_dim": WIDTH,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "cross_attention_norm": "group_norm",
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": 4,
        "act_fn": "gelu",
        "time_embedding_act_fn": "gelu",
        "class_embed_type": None if stage == 1 else "timestep",
    }
    return UNet2DConditionModel(**options | more).eval()


def _floyd(cls: Any) -> Any:
    stage = 2 if cls is IFSuperResolutionPipeline else 1
    noising = {"beta_schedule": "squaredcos_cap_v2"}
    parts: dict[str, Any] = {
        "unet": floyd_unet(stage),
        "scheduler": DDPMScheduler(**noising, variance_type="learned_range", thresholding=True),
        "tokenizer": None,
        "text_encoder": None,
        "safety_checker": None,
        "feature_extractor": None,
        "watermarker": None,
    }
    if stage == 2:
        parts["image_noising_scheduler"] = DDPMScheduler(**noising)
    return cls(**parts, requires_safety_checker=False)
