"""Tiny random pipelines of every family of transformers, of diffusers' own classes, and what is known of them.

What stands here about text, image and CFG is written down from diffusers' source, independently of the product.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from diffusers import (
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor

WIDTH = 24
"""Of the text."""

SCALE = 4.0
"""What the pipelines are given as their guidance scale."""

Order = tuple[int, slice, slice]
"""How many keys there are, those of the text and those of the image."""


@dataclass(frozen=True)
class Kind:
    """One pipeline.

    build      makes it; call: its further arguments, for texts of (conditional, unconditional) tokens.
    blocks     paths of its blocks, in the order in which they run, and the number of each kind.
    order      keys of a layer from (text columns, patches).
    combine    the pipeline's CFG, from (conditional, unconditional, scale) of one image as it is predicted.
    starts     how many of the first columns are START; suffix: template columns at the end.
    hides      whether the pipeline does not tell its scale.
    separate   whether the branches run in forwards of their own; else which rows come first.
    packed     whether latents are (b, h·w, 4C).
    sign       of the prediction, where the scheduler takes a velocity.
    gamma      γ of Eq. 7 for SCALE.
    """

    build: Callable[[], Any]
    call: Callable[[int, tuple[int, int]], dict[str, Any]]
    blocks: tuple[tuple[str, int], ...]
    order: Callable[[int, int], Order]
    combine: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    starts: int = 0
    suffix: int = 0
    hides: bool = False
    separate: bool = True
    cond_first: bool = True
    packed: bool = True
    sign: int = 1
    gamma: float = SCALE
    lengths: tuple[int, int] = (12, 9)
    attention: str = "attn"

    def names(self) -> list[str]:
        return [f"{path}.{index}" for path, count in self.blocks for index in range(count)]

    def arguments(self, images: int = 1, height: int = 10, width: int = 14, **changes: Any) -> dict[str, Any]:
        """What the pipeline is called with, for latents of height × width."""
        call = {
            "height": 8 * height,
            "width": 8 * width,
            "num_inference_steps": 3,
            "generator": torch.Generator().manual_seed(3),
            "output_type": "latent",
            ("true_cfg_scale" if self.hides else "guidance_scale"): SCALE,
        }
        return call | self.call(images, self.lengths) | changes

    @property
    def given(self) -> dict[str, Any]:
        """What S-CFG has to be told."""
        return {"guidance_scale": SCALE} if self.hides else {}


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texts(images: int, lengths: tuple[int, int]) -> dict[str, Any]:
    return {
        "prompt_embeds": random(images, lengths[0], WIDTH),
        "negative_prompt_embeds": random(images, lengths[1], WIDTH, seed=2),
    }


def pooled(images: int) -> dict[str, Any]:
    return {
        "pooled_prompt_embeds": random(images, 16),
        "negative_pooled_prompt_embeds": random(images, 16, seed=2),
    }


def masks(name: str, images: int, lengths: tuple[int, int], kept: tuple[int, int] | None = None) -> dict[str, Any]:
    """Masks of both texts, of which `kept` columns are none of padding."""
    found = {}
    for prefix, length, real in zip(("", "negative_"), lengths, kept or lengths, strict=True):
        found[prefix + name] = (torch.arange(length) < real).long().expand(images, -1).clone()
    return found


def lists(images: int, lengths: tuple[int, int]) -> dict[str, Any]:
    found = texts(images, lengths)
    return {name: list(value.unbind(0)) for name, value in found.items()}


# ---- order of the keys, and CFG ----------------------------------------------------------------------------


def text_first(text: int, image: int) -> Order:
    return text + image, slice(0, text), slice(text, text + image)


def image_first(text: int, image: int) -> Order:
    return text + image, slice(image, image + text), slice(0, image)


def image_first_in_32s(text: int, image: int) -> Order:
    first, behind = (math.ceil(count / 32) * 32 for count in (image, text))
    return first + behind, slice(first, first + text), slice(0, image)


def cfg(cond: np.ndarray, uncond: np.ndarray, scale: float) -> np.ndarray:
    return uncond + scale * (cond - uncond)


def cfg_of_norm(cond: np.ndarray, uncond: np.ndarray, scale: float) -> np.ndarray:
    """Qwen-Image: every token as long as the conditional one. Lumina 2: every row of the latent."""
    guided = cfg(cond, uncond, scale)
    length = np.linalg.norm(cond, axis=-1, keepdims=True) / np.linalg.norm(guided, axis=-1, keepdims=True)
    return guided * length


def cfg_from_cond(cond: np.ndarray, uncond: np.ndarray, scale: float) -> np.ndarray:
    return cond + scale * (cond - uncond)


# ---- networks ----------------------------------------------------------------------------------------------

HEADS = {"attention_head_dim": 16, "num_attention_heads": 2}
NONE = {"vae": None, "text_encoder": None, "tokenizer": None}


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0)


def made(pipeline: Any, network: Any, **parts: Any) -> Any:
    """The pipeline, its q enlarged, so that maps are not flat."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("norm_q.weight", "norm_added_q.weight")):
                parameter.mul_(4)
    pipe = pipeline(transformer=network.eval(), scheduler=scheduler(), **NONE | parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3() -> Any:
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=32, in_channels=4, out_channels=4, num_layers=8, joint_attention_dim=WIDTH,
        caption_projection_dim=32, pooled_projection_dim=16, pos_embed_max_size=32, qk_norm="rms_norm",
        dual_attention_layers=(0, 1, 2, 3), **HEADS,
    )  # fmt: skip
    others = dict.fromkeys(("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"))
    return made(StableDiffusion3Pipeline, network, **others)


def flux() -> Any:
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        in_channels=16, num_layers=4, num_single_layers=6, joint_attention_dim=WIDTH, pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8), **HEADS,
    )  # fmt: skip
    return made(FluxPipeline, network, text_encoder_2=None, tokenizer_2=None)


def chroma() -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`FluxPosEmbed` is deprecated", FutureWarning)  # diffusers' own use
        network = _chroma_network()
    return made(ChromaPipeline, network)


def _chroma_network() -> ChromaTransformer2DModel:
    return ChromaTransformer2DModel(
        in_channels=16, num_layers=4, num_single_layers=6, joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32, approximator_layers=1, approximator_num_channels=16, **HEADS,
    )  # fmt: skip


def qwen() -> Any:
    torch.manual_seed(0)
    network = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=8, joint_attention_dim=WIDTH, axes_dims_rope=(4, 4, 8), **HEADS
    )
    return made(QwenImagePipeline, network)


def lumina2() -> Any:
    torch.manual_seed(0)
    network = Lumina2Transformer2DModel(
        sample_size=32, in_channels=4, hidden_size=32, num_layers=8, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 4, 8), axes_lens=(300, 64, 64), cap_feat_dim=WIDTH,
    )  # fmt: skip
    return made(Lumina2Pipeline, network)


def z_image() -> Any:
    torch.manual_seed(0)
    network = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=8, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 4, 8], axes_lens=[128, 64, 64],
    )  # fmt: skip
    with torch.no_grad():
        for token in (network.x_pad_token, network.cap_pad_token):
            token.copy_(random(*token.shape))
    return made(ZImagePipeline, network)


KINDS = {
    "SD 3": Kind(
        sd3, lambda images, lengths: texts(images, lengths) | pooled(images), (("transformer_blocks", 8),),
        image_first, cfg, starts=1, separate=False, cond_first=False, packed=False, lengths=(154, 154),
    ),
    "Flux": Kind(
        flux, lambda images, lengths: texts(images, lengths) | pooled(images),
        (("transformer_blocks", 4), ("single_transformer_blocks", 6)), text_first, cfg, hides=True,
        lengths=(12, 12),
    ),
    "Chroma": Kind(
        chroma,
        lambda images, lengths: texts(images, lengths) | {
            name: mask.float() for name, mask in masks("prompt_attention_mask", images, lengths).items()
        },
        (("transformer_blocks", 4), ("single_transformer_blocks", 6)), text_first, cfg,
    ),
    "Qwen-Image": Kind(
        qwen,
        lambda images, lengths: texts(images, lengths) | masks("prompt_embeds_mask", images, lengths),
        (("transformer_blocks", 8),), text_first, cfg_of_norm, suffix=5, hides=True,
    ),
    "Lumina 2": Kind(
        lumina2,
        lambda images, lengths: texts(images, (16, 16)) | masks("prompt_attention_mask", images, (16, 16), lengths),
        (("layers", 8),), text_first, cfg_of_norm, starts=1, packed=False, sign=-1,
    ),
    "Z-Image": Kind(
        z_image, lists, (("layers", 8),), image_first_in_32s, cfg_from_cond, starts=3, suffix=5, separate=False,
        packed=False, sign=-1, gamma=SCALE + 1, attention="attention",
    ),
}  # fmt: skip


def make(name: str) -> Any:
    """A pipeline of this kind; the same at every call."""
    return KINDS[name].build()


def sample(pipe: Any, name: str, images: int = 1, **changes: Any) -> Tensor:
    """Latents, as the pipeline returns them."""
    return pipe(**KINDS[name].arguments(images, **changes)).images


def with_lengths(name: str, *lengths: int) -> Kind:
    return replace(KINDS[name], lengths=lengths)
