"""Tiny transformers with random weights, through the host's own classes, and what is known of their attention.

What stands here about text and image is written down from the host's source, independently of the product.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import host

WIDTH = 64
"""Width of the text tokens, unless a model's family is recognised by it."""

Order = tuple[int, slice, slice]
"""How many keys there are, those of the text and those of the image."""


@dataclass(frozen=True)
class Family:
    """One family of models, as the tests know it.

    build      makes its ModelPatcher.
    blocks     path of a block among the modules, "{}" for its index, one for every kind, in the order they run.
    order      keys of a joint layer from (text columns, patches); None = self-attention, then to the text.
    channels   of the latent; frames: whether it is (B, C, T, H, W).
    starts     how many of the first columns are START; suffix: template columns at the end.
    keys       further keys of a CONDITIONING of n tokens.
    columns    text columns of n tokens; real: how many of them are not padding.
    odd        whether the host can sample odd latents.
    """

    build: Callable[[], Any]
    blocks: tuple[str, ...]
    order: Callable[[int, int], Order] | None
    channels: int = 16
    frames: bool = False
    patch: int = 2
    starts: int = 0
    suffix: int = 0
    width: int = WIDTH
    keys: Callable[[int], dict[str, Any]] = lambda tokens: {}
    columns: Callable[[int], int] = lambda tokens: tokens
    real: Callable[[int], int] | None = None
    odd: bool = True
    lengths: tuple[int, int] = (12, 9)

    def latent(self, h: int, w: int, images: int = 1, frames: int = 1) -> dict[str, Tensor]:
        depth = (frames,) if self.frames else ()
        return {"samples": torch.zeros(images, self.channels, *depth, h, w)}

    def text(self, seed: int, length: int, images: int = 1, **keys: Any) -> list:
        """A CONDITIONING of random tokens; their sizes differ, as those of an encoder do."""
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randn(images, length, self.width, generator=generator)
        return host.conditioning(tokens, **{**self.keys(length), **keys})

    def start_columns(self) -> tuple[int, ...]:
        return tuple(range(self.starts))

    def owners(self, length: int) -> list[int]:
        """Columns that may own patches, of a prompt of `length` tokens."""
        real = (self.real or self.columns)(length)
        return list(range(real - self.suffix))

    def names(self, patcher: Any) -> list[str]:
        """Paths of its blocks, in the order in which they run."""
        modules = dict(host.unet(patcher).named_modules())
        return [
            path.format(index) for path in self.blocks for index in range(len(modules[path.rpartition(".")[0]]))
        ]


def text_first(before: int = 0, behind: int = 0) -> Callable[[int, int], Order]:
    """`before` other keys, text, `behind` other keys, image."""

    def order(text: int, image: int) -> Order:
        first = before + text + behind
        return first + image, slice(before, before + text), slice(first, first + image)

    return order


def image_first(text: int, image: int) -> Order:
    return image + text, slice(image, image + text), slice(0, image)


def padded_to_32(text: int, image: int) -> Order:
    first, behind = (math.ceil(count / 32) * 32 for count in (text, image))
    return first + behind, slice(0, text), slice(first, first + image)


def model(config: str, unet: dict[str, Any]) -> Any:
    """A ModelPatcher of the host's config class `config`."""
    import comfy.supported_models

    made = getattr(comfy.supported_models, config)(unet | {"dtype": torch.float32})
    made.set_inference_dtype(torch.float32, None)
    made.custom_operations = None
    return made.get_model({}, prefix="", device=None)


def patcher(made: Any) -> Any:
    """A ModelPatcher with random weights; the norms of q are enlarged, so that maps are not flat."""
    result = host.patcher(made)
    with torch.no_grad():
        for name, parameter in made.diffusion_model.named_parameters():
            if re.search(r"(q_norm\d?|norm_q|query_norm|ln_q|q_rms_norm)\.weight$", name):
                parameter.mul_(3)
    return result


def built(config: str, **unet: Any) -> Callable[[], Any]:
    return lambda: patcher(model(config, unet))


COSMOS = {
    "max_img_h": 64, "max_img_w": 64, "max_frames": 8, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 96, "num_blocks": 8, "num_heads": 2, "mlp_ratio": 2.0,
    "crossattn_emb_channels": WIDTH, "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 16,
}  # fmt: skip
FLUX = {
    "in_channels": 16, "out_channels": 16, "vec_in_dim": None, "context_in_dim": WIDTH, "hidden_size": 64,
    "mlp_ratio": 2.0, "num_heads": 2, "depth": 4, "depth_single_blocks": 6, "axes_dim": [8, 12, 12], "theta": 10000,
    "patch_size": 2, "qkv_bias": True, "guidance_embed": False, "txt_ids_dims": [],
}  # fmt: skip
CHROMA = {key: value for key, value in FLUX.items() if key != "guidance_embed"} | {
    "in_channels": 64, "out_channels": 64, "vec_in_dim": 16, "in_dim": 64, "out_dim": 64, "hidden_dim": 64,
    "n_layers": 2,
}  # fmt: skip
LUMINA = {
    "patch_size": 2, "in_channels": 16, "dim": 64, "n_layers": 8, "n_refiner_layers": 2, "n_heads": 2,
    "n_kv_heads": 2, "multiple_of": 32, "ffn_dim_multiplier": 1.0, "qk_norm": True, "cap_feat_dim": WIDTH,
    "axes_dims": [8, 12, 12], "axes_lens": [64, 64, 64], "rope_theta": 10000.0,
}  # fmt: skip
HUNYUAN = FLUX | {
    "in_channels": 64, "out_channels": 64, "axes_dim": [16, 16], "theta": 256, "patch_size": [1, 1], "byt5": False,
    "meanflow": False, "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
del HUNYUAN["txt_ids_dims"]


def anima() -> Any:
    """Anima with a small adapter, whose size the host fixes."""
    from comfy.ldm.anima.model import LLMAdapter
    from comfy.ops import disable_weight_init

    made = model("Anima", COSMOS)
    made.diffusion_model.llm_adapter = LLMAdapter(
        WIDTH, WIDTH, WIDTH, num_layers=1, num_heads=2, dtype=torch.float32, operations=disable_weight_init
    )
    return patcher(made)


def sd3(**changes: Any) -> Any:
    unet = {
        "in_channels": 16, "patch_size": 2, "depth": 2, "num_blocks": 8, "adm_in_channels": 32, "qk_norm": "rms",
        "context_embedder_config": {"target": "torch.nn.Linear",
                                    "params": {"in_features": WIDTH, "out_features": 128}},
        "x_block_self_attn_layers": [0, 1, 2, 3], "pos_embed_scaling_factor": None,
    }  # fmt: skip
    return patcher(model("SD3", unet | changes))


def hidream() -> Any:
    unet = {
        "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 4, "num_single_layers": 6,
        "attention_head_dim": 32, "num_attention_heads": 2, "caption_channels": [WIDTH, WIDTH], "text_emb_dim": 32,
        "num_routed_experts": 2, "num_activated_experts": 1, "axes_dims_rope": (8, 12, 12),
        "max_resolution": (64, 64), "llama_layers": list(range(10)),
    }  # fmt: skip
    return patcher(model("HiDream", unet))


def llama(tokens: int) -> dict[str, Tensor]:
    """Ten layers of seven Llama tokens."""
    return {
        "conditioning_llama3": torch.randn(1, 10, 7, WIDTH, generator=torch.Generator().manual_seed(tokens)),
        "pooled_output": torch.randn(1, 32, generator=torch.Generator().manual_seed(tokens)),
    }


def pooled(width: int) -> Callable[[int], dict[str, Tensor]]:
    return lambda tokens: {"pooled_output": torch.randn(1, width, generator=torch.Generator().manual_seed(tokens))}


def t5_ids(tokens: int) -> dict[str, Tensor]:
    """Anima's T5 ids; there are fewer of them than tokens of its language model."""
    ids = torch.randint(3, 3000, (tokens - 3,), generator=torch.Generator().manual_seed(tokens), dtype=torch.int)
    return {"t5xxl_ids": ids, "t5xxl_weights": torch.ones(tokens - 3)}


DOUBLE_SINGLE = ("double_blocks.{}", "single_blocks.{}")

FAMILIES = {
    "anima": Family(
        anima, ("blocks.{}",), None, frames=True, keys=t5_ids, columns=lambda tokens: 512,
        real=lambda tokens: tokens - 3,
    ),
    "cosmos": Family(built("CosmosT2IPredict2", **COSMOS), ("blocks.{}",), None, frames=True),
    "klein": Family(
        built("Flux2", **FLUX | {
            "in_channels": 128, "out_channels": 128, "patch_size": 1, "context_in_dim": 7680, "txt_ids_dims": [3],
            "axes_dim": [8, 8, 8, 8], "global_modulation": True, "mlp_silu_act": True, "ops_bias": False,
            "qkv_bias": False,
        }),
        DOUBLE_SINGLE, text_first(), channels=128, patch=1, width=7680, starts=3, suffix=9, lengths=(512, 512),
        keys=lambda tokens: {"attention_mask": torch.arange(tokens)[None].lt(24).long()}, real=lambda tokens: 24,
    ),
    "flux1": Family(built("FluxSchnell", **FLUX), DOUBLE_SINGLE, text_first()),
    "chroma": Family(built("Chroma", **CHROMA), DOUBLE_SINGLE, text_first()),
    "qwen": Family(
        built("QwenImage", patch_size=2, in_channels=64, out_channels=16, num_layers=8, attention_head_dim=32,
              num_attention_heads=2, joint_attention_dim=WIDTH, axes_dims_rope=(8, 12, 12)),
        ("transformer_blocks.{}",), text_first(), frames=True, suffix=5,
    ),
    "lumina": Family(built("Lumina2", **LUMINA), ("layers.{}",), text_first(), starts=1),
    "z_image": Family(
        built("ZImage", **LUMINA | {
            "dim": 256, "n_heads": 8, "n_kv_heads": 8, "z_image_modulation": True, "pad_tokens_multiple": 32,
            "time_scale": 1000.0,
        }),
        ("layers.{}",), padded_to_32, starts=3, suffix=5,
    ),
    "sd3": Family(sd3, ("joint_blocks.{}",), text_first(), starts=1, keys=pooled(32), lengths=(154, 154)),
    "hidream": Family(
        hidream, ("double_stream_blocks.{}", "single_stream_blocks.{}"), image_first, keys=llama,
        columns=lambda tokens: tokens + 14,
    ),
    "aura": Family(
        built("AuraFlow", in_channels=4, out_channels=4, patch_size=2, dim=64, n_layers=8, n_double_layers=3,
              n_heads=2, global_conddim=64, cond_seq_dim=WIDTH, max_seq=64),
        ("double_layers.{}", "single_layers.{}"), text_first(before=8), channels=4,
    ),
    "hunyuan": Family(
        built("HunyuanImage21", **HUNYUAN), DOUBLE_SINGLE, text_first(), channels=64, patch=1, suffix=1
    ),
    "kandinsky": Family(
        built("Kandinsky5Image", in_visual_dim=16, out_visual_dim=16, in_text_dim=WIDTH, in_text_dim2=32,
              time_dim=32, model_dim=64, ff_dim=64, visual_embed_dim=64, num_text_blocks=1, num_visual_blocks=8,
              axes_dims=(8, 12, 12)),
        ("visual_transformer_blocks.{}",), None, suffix=1, keys=pooled(32), odd=False,
    ),
}  # fmt: skip
