"""A real ComfyUI in this process as the host of a benchmark, with random weights in the layouts of real models."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scfg_core import Grid, Settings
from scfg_core.hosts.comfyui import guide, observe
from scfg_core.hosts.comfyui.models import Architecture, architecture_of
from scfg_core.run.session import Collection

from .naive import NaiveMaps
from .random_weights import fill

CFG = 7.0
WIDTHS = {"sd15": 768, "sdxl": 2048}
LAYOUTS: dict[str, dict[str, Any]] = {
    "sd15": {
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "context_dim": 768,
    },
    "sdxl": {
        "model_channels": 320,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "use_linear_in_transformer": True,
        "num_head_channels": 64,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
        "context_dim": 2048,
    },
}


def find() -> Path | None:
    """The folder of a ComfyUI: COMFYUI_PATH, else ~/comfy/ComfyUI."""
    folder = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
    return folder.resolve() if (folder / "comfyui_version.py").is_file() else None


def start(device: str) -> str | None:
    """Import the host; a line that says why it cannot be, else None."""
    if "comfy.samplers" in sys.modules:
        return None
    folder = find()
    if folder is None:
        return "no ComfyUI found; set COMFYUI_PATH"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path.insert(0, str(folder))  # before ours: both have a top-level `nodes`
    arguments = sys.argv
    sys.argv = ["main.py", "--use-pytorch-cross-attention", "--cpu" if device == "cpu" else "--gpu-only"]
    threads = torch.get_num_threads()
    try:
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.cli_args
        import comfy.sample
        import comfy.supported_models  # noqa: F401
    except ImportError as error:
        return f"ComfyUI does not import with {sys.executable}: {error}"
    finally:
        sys.argv = arguments
        torch.set_num_threads(threads)
    return None


def facts() -> dict[str, str]:
    from comfy.ldm.modules.attention import optimized_attention
    from comfyui_version import __version__

    return {"host": f"ComfyUI {__version__}", "attention": optimized_attention.__name__}


def build(name: str, dtype: torch.dtype, device: str) -> Any:
    """A ModelPatcher with random weights in the layout of SD 1.5 or SDXL."""
    import comfy.model_patcher
    import comfy.supported_models

    common = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_checkpoint": False, "legacy": False}
    common |= {"use_spatial_transformer": True, "use_temporal_attention": False, "use_temporal_resblock": False}
    kind = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[name]
    config = kind(common | LAYOUTS[name] | {"dtype": dtype})
    config.set_inference_dtype(dtype, None)
    where = torch.device(device)
    model = config.get_model({}, prefix="", device=where)
    fill(model)
    model.requires_grad_(False).eval()
    return comfy.model_patcher.ModelPatcher(model, load_device=where, offload_device=where)


class Host:
    """One model; `sample` runs a few evaluations of CFG in one of the variants.

    variants: "cfg", "watch" (observed, nothing changed), "scfg" (default settings), "naive".
    watched: the modules in which S-CFG's work on its layers happens (here attentions, in diffusers whole blocks).
    calls: of the U-Net in the last sampling; the host splits an evaluation's batch where memory is short, and then
    no two pictures are equal to the last bit.
    """

    calls = 0

    def __init__(
        self, name: str, dtype: torch.dtype, device: str, around: Callable[[Callable[[], Tensor]], Tensor]
    ):
        """`around` is given every evaluation as a call, and must make it and return what it returns."""
        self.name = name
        self._plain = build(name, dtype, device).clone()
        self._plain.add_wrapper_with_key(
            "predict_noise", "benchmark", lambda executor, *args: around(lambda: executor(*args))
        )
        self._plain.add_wrapper_with_key("apply_model", "benchmark", self._counted)
        self._variants = {
            "cfg": self._plain,
            "watch": observe(self._plain, Collection())[0],
            "scfg": guide(self._plain, Settings())[0],
            "naive": _with_naive(self._plain),
        }
        self._text = [self._prompt(seed) for seed in (1, 2)]
        self.watched = _watched(self._plain.model.diffusion_model)

    def _counted(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return executor(*args, **kwargs)

    def _prompt(self, seed: int) -> list:
        generator = torch.Generator().manual_seed(seed)
        pooled = torch.randn(1, 1280, generator=generator)
        return [[torch.randn(1, 77, WIDTHS[self.name], generator=generator), {"pooled_output": pooled}]]

    def sample(self, variant: str, side: int, evaluations: int, images: int = 1) -> Tensor:
        """`evaluations` steps of Euler on latents of side × side."""
        import comfy.sample

        self.calls = 0
        model = self._variants[variant]
        latent = torch.zeros(images, 4, side, side)
        noise = comfy.sample.prepare_noise(latent, 0)
        return comfy.sample.sample(
            model, noise, evaluations, CFG, "euler", "normal", *self._text, latent, disable_pbar=True, seed=0
        )


def _architecture(unet: Any) -> Architecture:
    architecture = architecture_of(unet)
    if architecture is None:
        raise TypeError(f"expected a U-Net with cross-attention, got {type(unet).__name__}")
    return architecture


def _watched(unet: Any) -> list[nn.Module]:
    architecture = _architecture(unet)
    names = architecture.choose_layers("auto")
    parts = {"input": unet.input_blocks, "middle": [unet.middle_block], "output": unet.output_blocks}
    return [
        attention
        for kind, blocks in parts.items()
        for number, block in enumerate(blocks)
        for tower in block
        for index, layer in enumerate(getattr(tower, "transformer_blocks", ()))
        if f"{kind}.{number}.{index}" in names
        for attention in (layer.attn1, layer.attn2)
    ]


def _with_naive(patcher: Any) -> Any:
    """A clone whose guidance is naive S-CFG."""
    clone = patcher.clone()
    architecture = _architecture(clone.model.diffusion_model)
    names = architecture.choose_layers("all")
    state: dict[str, Any] = {}

    def evaluated(executor: Any, *args: Any) -> Tensor:
        state.clear()  # of the evaluation before: until now it was kept, as such code does
        return executor(*args)

    def sampled(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        try:
            return executor(*args, **kwargs)
        finally:
            state.clear()  # what other variants are measured beside

    def override(func: Any, q: Tensor, k: Tensor, v: Tensor, heads: int, *args: Any, **kwargs: Any) -> Tensor:
        options = kwargs.get("transformer_options") or {}
        if architecture.layer_of(options, 0) in names:
            h, w = options["activations_shape"][2:4]
            queries, keys = (side.unflatten(-1, (heads, -1)).transpose(1, 2) for side in (q, k))
            kind = "attn1" if keys.shape[2] == h * w else "attn2"
            state.setdefault("cond_first", options["cond_or_uncond"][0] == 0)
            name = architecture.layer_of(options, 0)
            state.setdefault("maps", NaiveMaps()).see(name, queries, keys, Grid(h, w), kind)
        return func(q, k, v, heads, *args, **kwargs)

    def combined(args: dict) -> Tensor:
        cond, uncond, scale = args["cond_denoised"], args["uncond_denoised"], args["cond_scale"]
        ratio = state["maps"].ratio(cond, uncond, scale, state["cond_first"])
        return args["input"] - (uncond + scale * ratio * (cond - uncond))

    clone.model_options["transformer_options"]["optimized_attention_override"] = override
    clone.add_wrapper_with_key("outer_sample", "naive", sampled)
    clone.add_wrapper_with_key("predict_noise", "naive", evaluated)
    clone.set_model_sampler_cfg_function(combined)
    return clone
