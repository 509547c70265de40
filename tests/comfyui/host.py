"""ComfyUI in-process, with tiny random U-Nets in the layouts of SD 1.5 and SDXL, and what its KSampler does.

The host is the folder COMFYUI_PATH, else ~/comfy/ComfyUI. Import nothing of `comfy` before `start()`.
"""

import os
import sys
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CONTEXT = 64
"""Width of the text tokens."""
POOLED = 1280


@cache
def start() -> str | None:
    """Import the host on the CPU; a line that says why it cannot be, else None. One host per process."""
    folder = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
    if not (folder / "comfyui_version.py").is_file():
        return f"no ComfyUI at {folder}; set COMFYUI_PATH"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(folder.resolve()))  # before ours: both have a top-level `nodes`
    arguments, sys.argv = sys.argv, ["main.py", "--cpu"]
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args  # reads the arguments once
        import comfy.sample
        import comfy.supported_models

        import nodes  # noqa: F401
    except ImportError as error:
        return f"ComfyUI at {folder} does not import with {sys.executable}: {error}"
    finally:
        sys.argv = arguments
    torch.set_num_threads(1)
    return None


def version() -> tuple[int, ...]:
    from comfyui_version import __version__

    return tuple(int(part) for part in __version__.split("."))


# ---- models ------------------------------------------------------------------------------------------------


def sd15(config_class: Any = None, **changes: Any) -> Any:
    """SD 1.5's layout with one residual block a level and attention at levels 1, 2 and 3: 7 blocks, 14 attentions.

    Its two deepest levels are input block 5, the middle, output blocks 2 and 3: see `SD15_LAYERS`.
    """
    import comfy.supported_models

    levels = {"model_channels": 32, "channel_mult": [1, 1, 2, 2], "num_res_blocks": [1, 1, 1, 1]}
    depth = {
        "transformer_depth": [0, 1, 1, 0],
        "transformer_depth_output": [0, 0, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
    }
    config = {"use_linear_in_transformer": False, "adm_in_channels": None, "context_dim": CONTEXT}
    return build(config_class or comfy.supported_models.SD15, levels | depth | config, **changes)


SD15_LAYERS = (
    "input_blocks.5.1.transformer_blocks.0",
    "middle_block.1.transformer_blocks.0",
    "output_blocks.2.1.transformer_blocks.0",
    "output_blocks.3.1.transformer_blocks.0",
)
"""The layers of the two deepest levels of `sd15`, in the order in which they run."""


def sdxl(**changes: Any) -> Any:
    """SDXL's layout: three levels, none at full size with attention, pooled text; 17 blocks, 34 attentions."""
    import comfy.supported_models

    levels = {"model_channels": 32, "channel_mult": [1, 2, 4], "num_res_blocks": [2, 2, 2]}
    depth = {
        "transformer_depth": [0, 0, 1, 1, 2, 2],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
        "transformer_depth_middle": 2,
    }
    config = {
        "use_linear_in_transformer": True,
        "num_head_channels": 32,
        "num_classes": "sequential",
        "adm_in_channels": POOLED + 6 * 256,
        "context_dim": CONTEXT,
    }
    return build(comfy.supported_models.SDXL, levels | depth | config, **changes)


SDXL_LAYERS = (
    "input_blocks.4.1.transformer_blocks.0",
    "input_blocks.5.1.transformer_blocks.0",
    "output_blocks.1.1.transformer_blocks.1",
    "output_blocks.2.1.transformer_blocks.0",
    "output_blocks.2.1.transformer_blocks.1",
    "output_blocks.3.1.transformer_blocks.0",
    "output_blocks.4.1.transformer_blocks.0",
    "output_blocks.5.1.transformer_blocks.0",
)
"""Layers of `sdxl` that are watched: all five of level 1, and of level 2's twelve the last three."""


def build(config_class: Any, unet: dict[str, Any], dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A ModelPatcher over the BaseModel that the host makes of a U-Net config."""
    return patcher(bare(config_class, unet | {"dtype": dtype} | changes))


def bare(config_class: Any, unet: dict[str, Any]) -> Any:
    """The BaseModel of a U-Net config, its weights not yet given."""
    common = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_checkpoint": False, "legacy": False}
    common |= {"use_spatial_transformer": True, "use_temporal_attention": False, "use_temporal_resblock": False}
    config = config_class(common | unet)
    config.set_inference_dtype(unet.get("dtype", torch.float32), None)
    return config.get_model({}, prefix="", device=None)


def wrapped(network: type[nn.Module]) -> Any:
    """A ModelPatcher over a BaseModel whose diffusion model is `network`."""
    import comfy.model_base
    import comfy.supported_models

    config = comfy.supported_models.SD15({"dtype": torch.float32})
    config.set_inference_dtype(torch.float32, None)
    return patcher(comfy.model_base.BaseModel(config, unet_model=network))


def patcher(model: Any) -> Any:
    """A ModelPatcher on the CPU over a BaseModel with random weights."""
    import comfy.model_patcher

    fill(model)
    model.requires_grad_(False).eval()
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Random weights that depend on the parameter's name only; q and k are enlarged, so that maps are not flat."""
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        weight = torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5
        parameter.copy_(weight * (1.5 if ".to_q." in name or ".to_k." in name else 1.0))


def unet(patcher: Any) -> Any:
    return patcher.model.diffusion_model


# ---- prompts and latents -----------------------------------------------------------------------------------


def tokens(seed: int, length: int = 77, images: int = 1) -> Tensor:
    """Text tokens (images, length, CONTEXT)."""
    return torch.randn(images, length, CONTEXT, generator=torch.Generator().manual_seed(seed))


def conditioning(text: Tensor, **keys: Any) -> list:
    """One CONDITIONING entry; `keys` go into its dict (area, mask, strength, start_percent, …). Join with +."""
    pooled = torch.randn(len(text), POOLED, generator=torch.Generator().manual_seed(1))
    return [[text, {"pooled_output": pooled, **keys}]]


def latent(h: int = 16, w: int = 16, images: int = 1, seed: int | None = None) -> dict[str, Tensor]:
    """A LATENT of h×w cells: zeros, or N(0, 1) where a seed is given."""
    if seed is None:
        return {"samples": torch.zeros(images, 4, h, w)}
    return {"samples": torch.randn(images, 4, h, w, generator=torch.Generator().manual_seed(seed))}


# ---- sampling ----------------------------------------------------------------------------------------------


def ksample(
    patcher: Any,
    positive: list,
    negative: list,
    image: dict[str, Tensor],
    *,
    sampler: str = "euler",
    scheduler: str = "normal",
    cfg: float = 7.0,
    steps: int = 2,
    seed: int = 0,
    denoise: float = 1.0,
    callback: Any = None,
) -> Tensor:
    """What the KSampler node does."""
    import comfy.sample

    samples = comfy.sample.fix_empty_latent_channels(patcher, image["samples"])
    return comfy.sample.sample(
        patcher,
        comfy.sample.prepare_noise(samples, seed),
        steps,
        cfg,
        sampler,
        scheduler,
        positive,
        negative,
        samples,
        denoise=denoise,
        noise_mask=image.get("noise_mask"),
        callback=callback,
        disable_pbar=True,
        seed=seed,
    )


def guide_sample(guider: Any, image: dict[str, Tensor], *, steps: int = 2, callback: Any = None) -> Tensor:
    """What the SamplerCustomAdvanced node does, with any guider whose conditionings and cfg are set."""
    import comfy.sample
    import comfy.samplers

    patcher = guider.model_patcher
    samples = comfy.sample.fix_empty_latent_channels(patcher, image["samples"])
    sigmas = comfy.samplers.calculate_sigmas(patcher.get_model_object("model_sampling"), "normal", steps)
    sampler = comfy.samplers.sampler_object("euler")
    noise = comfy.sample.prepare_noise(samples, 0)
    return guider.sample(
        noise, samples, sampler, sigmas, denoise_mask=None, callback=callback, disable_pbar=True, seed=0
    )
