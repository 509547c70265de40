"""Shared by the view nodes: which evaluation and image of a result to show, and arrays as IMAGE tensors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..scfg_core.errors import ScfgError
from ..scfg_core.run.record import Run
from ..views import inactive
from .common import ResultType

LATENT_CELL = 8
"""Pixels per latent cell, as most VAEs have it; for sizes in pixels where there is no image."""


def result_input() -> Any:
    return ResultType.Input("result", tooltip="From S-CFG Result.")


def step_input() -> Any:
    return io.Int.Input(
        "step",
        default=-1,
        min=-1,
        max=9999,
        tooltip="Sampler step to show, counted from 1; −1 is the last. If a step has several evaluations, the last "
        "one is shown.",
    )


def batch_input() -> Any:
    return io.Int.Input(
        "batch_index",
        default=0,
        min=0,
        max=4095,
        tooltip="Which image of the batch to show, counted from 0.",
    )


def evaluation_at(run: Run, step: int) -> int:
    """Index of the last evaluation of a step, counted from 1; −1 is the last step. Raises `ScfgError` otherwise."""
    if step < 0:
        return len(run.evaluations) - 1
    steps = [run.step_of(evaluation) + 1 for evaluation in run.evaluations]
    if not min(steps) <= step <= max(steps):
        raise ScfgError(
            f"expected a step from {min(steps)} to {max(steps)}, got {step}: no other steps were recorded"
        )
    nearest = min(abs(recorded - step) for recorded in steps)  # very long runs do not keep every step
    return max(index for index, recorded in enumerate(steps) if abs(recorded - step) == nearest)


def image_at(run: Run, batch_index: int) -> int:
    """The batch index. Raises `ScfgError` if the run has fewer images."""
    count = len(run.evaluations[-1].labels)
    if batch_index >= count:
        raise ScfgError(
            f"expected a batch_index from 0 to {count - 1}, got {batch_index}: the run has {count} images"
        )
    return batch_index


def as_tensor(array: np.ndarray) -> Tensor:
    """RGB uint8 (H, W, 3) → IMAGE (1, H, W, 3) in 0…1."""
    return torch.from_numpy(array.astype(np.float32) / 255)[None]


def as_array(image: Tensor, index: int) -> np.ndarray:
    """One image of an IMAGE (B, H, W, 3) in 0…1 → RGB uint8 (H, W, 3)."""
    return (image[min(index, len(image) - 1), ..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()


def frames_at(image: Tensor, index: int, run: Run) -> np.ndarray:
    """What lies behind the regions of one image of a run, RGB uint8.

    Of a video, whose IMAGE is (B·F, H, W, 3): as many frames as the latent has, one below the other.
    """
    last = run.evaluations[-1]
    if last.frames == 1:
        return as_array(image, index)
    shown = max(1, len(image) // len(last.labels))
    places = [index * shown + frame * shown // last.frames for frame in range(last.frames)]
    return np.concatenate([as_array(image, place) for place in places])


def active(run: Run) -> Run:
    """The run. Raises `ScfgError` if S-CFG was inactive, with the reason and the remedy."""
    if not run.evaluations:
        reasons, remedies = "; ".join(run.notes), " ".join(run.remedies())
        raise ScfgError(f"expected a run with S-CFG active, got an inactive one ({reasons}): {remedies}")
    return run


def view(cls: type[io.ComfyNode], run: Run, draw: Callable[[], np.ndarray], *outputs: Any) -> io.NodeOutput:
    """The image that `draw` gives as the first output and as the preview on the node; if S-CFG was inactive in the
    run, an image that says why.
    """
    image = as_tensor(draw() if run.evaluations else inactive(run))
    return io.NodeOutput(image, *outputs, ui=ui.PreviewImage(image, cls=cls))
