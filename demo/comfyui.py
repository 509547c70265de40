"""The demo model inside ComfyUI: MODEL, CLIP and VAE in the host's own classes, from the weights beside this file.

The model draws 64×64 pixels in a latent space of 12×32×32, a wavelet's. To the host the wavelet is the VAE, which
also enlarges every pixel fourfold: an EmptyLatentImage of 256×256 gives the size that the model was trained on.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
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
from comfy_execution.utils import get_executing_context
from einops import rearrange
from torch import Tensor, nn

from ..scfg_core.hosts.comfyui.prompts import START_TOKENS
from ..scfg_core.hosts.comfyui.prompts import WORDS as WORDS_KEY
from .model import read_weights
from .text import TextEncoder, split
from .wavelet import CHANNELS, LOW, decode, encode
from .words import END, LENGTH, PAD, START, VOCABULARY, WORDS

ENLARGEMENT = 4
"""Pixels of an image per pixel of the model."""

DOWNSCALE = 2 * ENLARGEMENT
"""Pixels of an image per latent."""

FORMER_WORDS = {"circle": "balloon", "square": "house", "triangle": "tent", "cross": "star", "background": "grass"}
"""Words of an earlier demo model, which saved workflows may have, and what is drawn in their place."""

SPELLINGS = VOCABULARY + tuple(FORMER_WORDS)
"""What the host's tokens are called: a former word keeps its name, so that masks and legends still find it."""


class DemoLatent(comfy.latent_formats.LatentFormat):
    """The wavelet's low band, first of its channels, is an image of half the size: that is the preview."""

    latent_channels = CHANNELS
    latent_rgb_factors = [[0.5 / LOW * (row == column) for column in range(3)] for row in range(CHANNELS)]


class DemoConfig(comfy.supported_models_base.BASE):
    """The demo model's U-Net in the layout of Stable Diffusion 1.x."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": 32}
    latent_format = DemoLatent
    memory_usage_factor = 1.0

    def model_type(self, state_dict: dict, prefix: str = "") -> Any:
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        """The host takes every U-Net of more than four channels for one that wants a mask and its image."""
        return False


def load_demo(tell: Callable[[str, str], None] | None = None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the demo model.

    tell  shows a text on the node with an id: which words of a prompt the model does not know.
    """
    return load_patcher(), _load_clip(tell), WaveletVAE()


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
    """The host's tokenizer interface; brackets give words a weight, as everywhere in ComfyUI.

    Words that the model does not know are skipped, and the node that encodes them says so.
    """

    def __init__(
        self,
        embedding_directory: Any = None,
        tokenizer_data: Any = None,
        tell: Callable[[str, str], None] | None = None,
    ) -> None:
        """The host gives the first two arguments; there are no embeddings here."""
        self._tell = tell

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list]:
        pairs: list[tuple[int, float]] = [(START, 1.0)]
        weighted = [
            (word, weight) for part, weight in comfy.sd1_clip.token_weights(text, 1.0) for word in split(part)
        ]
        report_words([word for word, _ in weighted], self._tell)
        pairs += [(SPELLINGS.index(word), weight) for word, weight in weighted if word in SPELLINGS]
        pairs.append((END, 1.0))
        if len(pairs) > LENGTH:
            raise ValueError(f"a prompt may have {LENGTH - 2} words, this one has {len(pairs) - 2}")
        pairs += [(PAD, 1.0)] * (LENGTH - len(pairs))
        if return_word_ids:
            words = _word_numbers([token for token, _ in pairs])
            return {"demo": [[(*pair, word + 1) for pair, word in zip(pairs, words, strict=True)]]}
        return {"demo": [pairs]}

    def untokenize(self, pairs: list[tuple]) -> list[tuple[tuple, str]]:
        return [(pair, SPELLINGS[pair[0]]) for pair in pairs]

    def state_dict(self) -> dict:
        return {}


def report_words(words: Sequence[str], tell: Callable[[str, str], None] | None) -> None:
    """Name what is skipped or replaced, and the words that there are: in the log, and on the node that runs."""
    skipped = [word for word in dict.fromkeys(words) if word not in SPELLINGS]
    replaced = [f"{word} (drawn as {FORMER_WORDS[word]})" for word in dict.fromkeys(words) if word in FORMER_WORDS]
    if not skipped and not replaced:
        return
    actions = [("skipped", skipped), ("replaced", replaced)]
    done = " and ".join(f"{action} {', '.join(named)}" for action, named in actions if named)
    status = f"The demo model {done}. It knows: {' '.join(WORDS)}"
    logging.warning(status)
    context = get_executing_context()
    if tell is not None and context is not None:
        tell(context.node_id, status)


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
        context = self.encoder(torch.tensor([[_model_token(number) for number in numbers]], device=device))
        weights = torch.tensor([float(pair[1]) for pair in pairs], device=device)
        words = {WORDS_KEY: ([SPELLINGS[token] for token in numbers], _word_numbers(numbers)), START_TOKENS: (0,)}
        return (context * weights[:, None]).cpu(), None, words

    def set_clip_options(self, options: dict) -> None:
        """The demo encoder has no layers to skip."""

    def reset_clip_options(self) -> None:
        """See `set_clip_options`."""

    def load_sd(self, state_dict: dict) -> Any:
        return self.load_state_dict(state_dict, strict=False)


def _model_token(token: int) -> int:
    """The model's own token; what takes the place of a former word."""
    word = SPELLINGS[token]
    return VOCABULARY.index(FORMER_WORDS.get(word, word))


def _word_numbers(tokens: list[int]) -> list[int]:
    """Which word of the prompt each token is; −1 for START, END and padding."""
    return [index - 1 if token not in (START, END, PAD) else -1 for index, token in enumerate(tokens)]


def _load_clip(tell: Callable[[str, str], None] | None) -> Any:
    target = SimpleNamespace(params={}, clip=DemoClip, tokenizer=partial(DemoTokenizer, tell=tell))
    return comfy.sd.CLIP(target, embedding_directory=None)


class WaveletVAE(comfy.sd.VAE):
    """Latents to images (B, H, W, 3), range 0…1, and back; each pixel of the model is a square of an image."""

    def __init__(self) -> None:
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)})
        self.latent_channels = CHANNELS
        self.upscale_ratio = self.downscale_ratio = DOWNSCALE

    def decode(self, samples_in: Tensor, *_: Any, **__: Any) -> Tensor:
        images = F.interpolate(decode(samples_in.float()), scale_factor=ENLARGEMENT)
        images = rearrange((images + 1) / 2, "b c h w -> b h w c").clamp(0, 1)
        return images.to(comfy.model_management.intermediate_device())

    def decode_tiled(self, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.decode(samples)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Sides are cut to whole latents, as the host's VAEs do."""
        pixels = rearrange(pixel_samples[..., :3], "b h w c -> b c h w").float()
        height, width = (side // DOWNSCALE * DOWNSCALE for side in pixels.shape[2:])
        latents = encode(F.avg_pool2d(pixels[..., :height, :width], ENLARGEMENT) * 2 - 1)
        return latents.to(comfy.model_management.intermediate_device())

    def encode_tiled(self, pixel_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        return self.encode(pixel_samples)
