"""Checkpoints of one's own: folders in diffusers' format, as every pipeline that the paper names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    StableDiffusionControlNetPipeline,
)
from PIL import Image

from scfg_core import ScfgError, Settings
from scfg_core.hosts.diffusers import scfg
from scfg_core.run.record import Run

from .experiment import Drawn, Request
from .prompts import Prompt
from .regions import shuffled
from .store import Pixels, Record

WATCH = Settings(strength=0.0)
SCHEDULERS: Mapping[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {}),
    "dpmpp": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
}


@dataclass(frozen=True)
class Sampling:
    """How images are drawn. `size`: side in pixels, None = the model's own; `kept`: side of the kept image."""

    sampler: str = "ddim"
    steps: int = 50
    seed: int = 0
    size: int | None = None
    kept: int | None = None
    negative: str = ""


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of: its folder, IF's second stage, a ControlNet and the folder of its conditions."""

    folder: Path
    second_stage: Path | None = None
    controlnet: Path | None = None
    conditions: Path | None = None


class Pipelines:
    """The `System` of a checkpoint: SD 1.5, 2.1 and XL, with a ControlNet, DreamBooth's weights, or IF's stages."""

    def __init__(
        self, parts: Parts, prompts: Sequence[Prompt], sampling: Sampling, device: Any, dtype: torch.dtype
    ) -> None:
        if parts.controlnet is not None and parts.conditions is None:
            raise ScfgError(
                "expected --conditions with --controlnet, got none: "
                "name the folder of condition images, called as the images that the captions describe"
            )
        self._prompts, self._sampling, self._parts = prompts, sampling, parts
        self._first = _ready(_load(parts.folder, parts.controlnet, dtype), sampling, device)
        self._second = None
        if parts.second_stage is not None:  # it draws from the first stage's text, so it needs no encoder
            second = _from_folder(DiffusionPipeline, parts.second_stage, dtype, text_encoder=None)
            self._second = _ready(second, sampling, device)

    @property
    def captions(self) -> list[str]:
        return [prompt.caption for prompt in self._prompts]

    def describe(self) -> Record:
        given = {name: _fingerprint(path) for name, path in vars(self._parts).items() if path is not None}
        return given | vars(self._sampling)

    def draw(self, request: Request) -> Drawn:
        """Draw a batch; images whose γ differ are drawn one by one. Plain CFG at one γ is watched.

        CLIP looks at the images later, when the U-Net has left the device.
        """
        if len(set(request.scales)) > 1:
            singles = zip(request.indices, request.scales, strict=True)
            return Drawn([self._draw([index], scale, None, request).images[0] for index, scale in singles])
        settings = request.arm.settings or (WATCH if request.arm.matches is None else None)
        return self._draw(request.indices, request.scales[0], settings, request)

    @torch.no_grad()
    def _draw(self, indices: Sequence[int], scale: float, settings: Settings | None, request: Request) -> Drawn:
        sampling = self._sampling
        run: Run | None = None
        seeds = [sampling.seed + index for index in indices]
        call = self._text([self.captions[index] for index in indices]) | {
            "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
            "guidance_scale": scale,
            "num_inference_steps": sampling.steps,
        }
        if request.arm.rescale:
            call["guidance_rescale"] = request.arm.rescale
        if self._parts.conditions is not None:
            call["image"] = [self._condition(self._parts.conditions, index) for index in indices]
        size = {} if sampling.size is None else {"height": sampling.size, "width": sampling.size}
        stages = [self._first] if self._second is None else [self._first, self._second]
        with ExitStack() as attached:
            if settings is not None:
                regions = (lambda found: shuffled(found, seeds)) if request.arm.regions == "shuffled" else None
                runs = [
                    attached.enter_context(scfg(stage, settings, guidance_scale=scale, resegment=regions))
                    for stage in stages
                ]
                run = runs[0]
            images = self._first(**call, **size, output_type="np" if self._second is None else "pt").images
            if self._second is not None:
                images = self._second(**call | {"image": images}, output_type="np").images
        return Drawn([_kept(image, sampling.kept) for image in images], run)

    def _text(self, captions: list[str]) -> dict[str, Any]:
        """The pipelines' text; two stages share what the first one's encoder says."""
        negative = [self._sampling.negative] * len(captions)
        if self._second is None:
            return {"prompt": captions, "negative_prompt": negative}
        positives, negatives = self._first.encode_prompt(captions, negative_prompt=negative)
        return {"prompt_embeds": positives, "negative_prompt_embeds": negatives}

    def _condition(self, folder: Path, index: int) -> Image.Image:
        name = self._prompts[index].image
        if name is None:
            raise ScfgError("expected captions of named images, got plain lines: use a COCO file")
        path = next(folder.glob(f"{Path(name).stem}.*"), None)
        if path is None:
            raise ScfgError(f"expected a condition image for {name} in {folder.name}, got none: make it")
        side = self._sampling.size or 512
        return Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)


def _load(folder: Path, controlnet: Path | None, dtype: torch.dtype) -> Any:
    if controlnet is None:
        return _from_folder(DiffusionPipeline, folder, dtype)
    network = ControlNetModel.from_pretrained(controlnet, dtype=dtype, local_files_only=True)
    return _from_folder(StableDiffusionControlNetPipeline, folder, dtype, controlnet=network)


def _from_folder(kind: Any, folder: Path, dtype: torch.dtype, **parts: Any) -> Any:
    if not (folder / "model_index.json").is_file():
        raise ScfgError(
            f"expected a diffusers pipeline, got {folder.name}: "
            "give a local folder with model_index.json, as save_pretrained writes it"
        )
    return kind.from_pretrained(folder, dtype=dtype, local_files_only=True, **parts)


def _ready(pipeline: Any, sampling: Sampling, device: Any) -> Any:
    """The pipeline with the experiment's sampler, on the device, and nothing in it that would change images."""
    for blinding in (
        "safety_checker",
        "watermarker",
        "watermark",
    ):  # blackened and marked images would be measured, too
        if getattr(pipeline, blinding, None) is not None:
            setattr(pipeline, blinding, None)
    kind, changes = SCHEDULERS[sampling.sampler]
    config = dict(pipeline.scheduler.config)
    if str(config.get("variance_type", "")).startswith("learned"):
        changes = changes | {"variance_type": "fixed_small"}  # these samplers take no learned variance
    pipeline.scheduler = kind.from_config(config | changes)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _fingerprint(folder: Path) -> str:
    """Name of a folder, and a hash of its files' names, sizes and small contents."""
    state = hashlib.sha256()
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        state.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        if path.suffix == ".json":
            state.update(path.read_bytes())
    return f"{folder.name} {state.hexdigest()[:16]}"


def _kept(image: np.ndarray, side: int | None) -> Pixels:
    """An image (h, w, 3) of 0…1 as it is kept: uint8, scaled to `side`."""
    pixels = (np.clip(image, 0, 1) * 255).round().astype(np.uint8)
    if side is None or pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
