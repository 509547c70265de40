"""The demo model inside ComfyUI: MODEL, CLIP and VAE in the host's own classes, from the weights beside this file.

The model works on 32×32 pixels. To the host they are a latent of three channels behind a VAE that only enlarges
eightfold, so an EmptyLatentImage of 256×256 gives the size that the model was trained on.
"""

from types import SimpleNamespace
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..scfg_core.hosts.comfyui.prompts import START_TOKENS, WORDS
from .model import END, PAD, START, VOCABULARY, TextEncoder, Tokenizer, read_weights

ENLARGEMENT = 8


class DemoPixels(comfy.latent_formats.LatentFormat):
    """RGB in −1…1, shown as it is."""

    latent_channels = 3
    latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class DemoConfig(comfy.supported_models_base.BASE):
    """The demo model's U-Net in the layout of Stable Diffusion 1.x."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = DemoPixels
    memory_usage_factor = 1.0

    def model_type(self, state_dict: dict, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION


def load_demo() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the demo model."""
    return load_patcher(), _load_clip(), EnlargingVAE()


def load_patcher() -> Any:
    """The U-Net as a ModelPatcher."""
    weights, _, config = read_weights()
    unet, scheduler = config["unet"], config["scheduler"]
    widths, depth = unet["block_out_channels"], _depths(unet["down_block_types"])
    layers = unet["layers_per_block"]
    layout = {
        "image_size": unet["sample_size"],
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [layers] * len(widths),
        "transformer_depth": [each for each in depth for _ in range(layers)],
        "transformer_depth_output": [each for each in depth for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": unet["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_checkpoint": False,
        "legacy": False,
        "use_temporal_attention": False,
        "adm_in_channels": None,
    }
    names = comfy.utils.unet_to_diffusers(layout)
    described = DemoConfig(layout)
    described.sampling_settings = {
        "beta_schedule": {"linear": "sqrt_linear", "scaled_linear": "linear"}[scheduler["beta_schedule"]],
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler["num_train_timesteps"],
    }
    described.set_inference_dtype(torch.float32, None)
    model = described.get_model({}, device=torch.device("cpu"))
    model.diffusion_model.load_state_dict({names[name]: tensor for name, tensor in weights.items()})
    device = comfy.model_management.get_torch_device()
    offload = comfy.model_management.unet_offload_device()
    patcher = comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
    patcher.cached_patcher_init = (load_patcher, ())
    return patcher


def _depths(block_types: list[str]) -> list[int]:
    return [int(name.startswith("CrossAttn")) for name in block_types]


class DemoTokenizer:
    """The host's tokenizer interface; brackets give words a weight, as everywhere in ComfyUI."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        self._tokenizer = Tokenizer()

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list]:
        pairs: list[tuple[int, float]] = [(START, 1.0)]
        for part, weight in comfy.sd1_clip.token_weights(text, 1.0):
            pairs += [(VOCABULARY.index(word), weight) for word in self._tokenizer.words(part)]
        pairs.append((END, 1.0))
        if len(pairs) > Tokenizer.length:
            raise ValueError(f"a prompt may have {Tokenizer.length - 2} words, this one has {len(pairs) - 2}")
        pairs += [(PAD, 1.0)] * (Tokenizer.length - len(pairs))
        if return_word_ids:
            words = _word_numbers([token for token, _ in pairs])
            return {"demo": [[(*pair, word + 1) for pair, word in zip(pairs, words, strict=True)]]}
        return {"demo": [pairs]}

    def untokenize(self, pairs: list[tuple]) -> list[tuple[tuple, str]]:
        return [(pair, VOCABULARY[pair[0]]) for pair in pairs]

    def state_dict(self) -> dict:
        return {}


class DemoClip(nn.Module):
    """The host's text encoder interface; the words of the prompt travel with the CONDITIONING."""

    dtypes = [torch.float32]

    def __init__(self, device: Any = "cpu", dtype: Any = None, model_options: Any = None) -> None:
        super().__init__()
        _, weights, config = read_weights()
        self.encoder = TextEncoder(**config["text"])
        self.encoder.load_state_dict(weights)
        self.to(device).eval().requires_grad_(False)

    def encode_token_weights(self, tokens: dict[str, list]) -> tuple[Tensor, None, dict[str, Any]]:
        (pairs,) = tokens["demo"]
        numbers = [pair[0] for pair in pairs]
        device = next(self.parameters()).device
        context = self.encoder(torch.tensor([numbers], device=device))
        weights = torch.tensor([float(pair[1]) for pair in pairs], device=device)
        words = {WORDS: ([VOCABULARY[token] for token in numbers], _word_numbers(numbers)), START_TOKENS: (0,)}
        return (context * weights[:, None]).cpu(), None, words

    def set_clip_options(self, options: dict) -> None:
        """The demo encoder has no layers to skip."""

    def reset_clip_options(self) -> None:
        """See `set_clip_options`."""

    def load_sd(self, state_dict: dict) -> Any:
        return self.load_state_dict(state_dict, strict=False)


def _word_numbers(tokens: list[int]) -> list[int]:
    """Which word of the prompt each token is; −1 for START, END and padding."""
    return [index - 1 if token not in (START, END, PAD) else -1 for index, token in enumerate(tokens)]


def _load_clip() -> Any:
    target = SimpleNamespace(params={}, clip=DemoClip, tokenizer=DemoTokenizer)
    return comfy.sd.CLIP(target, embedding_directory=None)


class EnlargingVAE(comfy.sd.VAE):
    """Latent RGB to a picture eight times as large, and back by averaging. Pictures (B, H, W, 3) in 0…1."""

    def __init__(self) -> None:
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)})
        self.upscale_ratio = self.downscale_ratio = ENLARGEMENT

    def decode(self, samples_in: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        pixels = rearrange(super().decode(samples_in, *args, **kwargs), "b h w c -> b c h w")
        return rearrange(F.interpolate(pixels, scale_factor=ENLARGEMENT), "b c h w -> b h w c")

    def decode_tiled(self, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.decode(samples)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        pixels = rearrange(pixel_samples[..., :3], "b h w c -> b c h w")
        return super().encode(rearrange(F.avg_pool2d(pixels, ENLARGEMENT), "b c h w -> b h w c"))

    def encode_tiled(self, pixel_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.encode(pixel_samples)
