"""Shared by the view nodes: which evaluation and image of a result to show, and arrays as IMAGE tensors."""

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..scfg_core.errors import ScfgError
from ..scfg_core.trace import Run
from .common import ResultType


def result_input() -> Any:
    return ResultType.Input("result", tooltip="From S-CFG Result.")


def step_input(**fields: Any) -> Any:
    return io.Int.Input(
        "step",
        default=-1,
        min=-1,
        max=9999,
        tooltip="Step of the sampler to show, counted from 1; −1 is the last one. Where a step has several "
        "evaluations, the last of them.",
        **fields,
    )


def batch_input(**fields: Any) -> Any:
    return io.Int.Input(
        "batch_index",
        default=0,
        min=0,
        max=4095,
        tooltip="Which image of the batch to show, counted from 0.",
        **fields,
    )


def evaluation_at(run: Run, step: int) -> int:
    """Index of the last evaluation in a step, from 1; −1 = the last step. Raises `ScfgError` for any other step."""
    if step < 0:
        return len(run.evaluations) - 1
    steps = [run.step_of(evaluation) + 1 for evaluation in run.evaluations]
    if not min(steps) <= step <= max(steps):
        raise ScfgError(f"expected a step from {min(steps)} to {max(steps)}, got {step}: S-CFG recorded no other")
    nearest = min(abs(each - step) for each in steps)  # of a very long run some steps are not kept
    return max(index for index, each in enumerate(steps) if abs(each - step) == nearest)


def image_at(run: Run, batch_index: int) -> int:
    """The batch index. Raises `ScfgError` where the run has fewer images."""
    count = len(run.evaluations[-1].labels)
    if batch_index >= count:
        raise ScfgError(
            f"expected a batch_index from 0 to {count - 1}, got {batch_index}: the run has {count} images"
        )
    return batch_index


def as_image(picture: np.ndarray) -> Tensor:
    """RGB uint8 (H, W, 3) → IMAGE (1, H, W, 3) in 0…1."""
    return torch.from_numpy(picture.astype(np.float32) / 255)[None]


def as_picture(image: Tensor, index: int) -> np.ndarray:
    """One image of an IMAGE (B, H, W, 3) in 0…1 → RGB uint8 (H, W, 3)."""
    return (image[min(index, len(image) - 1), ..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()


def shown(cls: type[io.ComfyNode], picture: np.ndarray, *more: Any) -> io.NodeOutput:
    """The picture as an output and as the node's inline preview."""
    image = as_image(picture)
    return io.NodeOutput(image, *more, ui=ui.PreviewImage(image, cls=cls))
