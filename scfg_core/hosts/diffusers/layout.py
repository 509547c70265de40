"""What the rows and channels of a U-Net's call are: [unconditional; conditional], prediction before variance."""

import torch
from torch import Tensor, nn

from .schedule import Scheduler


def is_pair(sample: Tensor) -> bool:
    """Whether the two halves of a batch (2·B, C, H, W) are the same images, as in every CFG batch; waits once.

    Two images without CFG, or three copies of an even number of them, are not.
    """
    return len(sample) % 2 == 0 and torch.equal(*sample.chunk(2))


def count_predicted(unet: nn.Module, scheduler: Scheduler, given: int, out: int) -> int:
    """How many of a U-Net's `out` channels are its prediction; the rest is a learned variance.

    given  channels of what went in: the noisy image first, then masks or images that condition it.

    Half of `out` where the scheduler's variance is learned; at most `given` where the scheduler does not tell.
    DeepFloyd's
    second stage takes (noisy, upscaled) and gives (prediction, variance), whatever scheduler it runs with.
    """
    learned = str(scheduler.config.get("variance_type", "")).startswith("learned")
    config = getattr(unet, "config", {})
    upscaler = "SimpleCrossAttn" in str(config.get("mid_block_type")) and config.get("class_embed_type") is not None
    if out % 2 == 0 and (learned or (upscaler and given == out)):
        return out // 2
    return min(given, out)
