"""Is a shape on the side of the picture where the prompt puts it? `demo.score` judges no places."""

from __future__ import annotations

import torch
from torch import Tensor

from demo.score import find_background, soft_alpha
from demo.world import PLACES, SIZE, Description, palette

_AXIS_AND_SIGN = {"left": (1, -1), "right": (1, 1), "top": (0, -1), "bottom": (0, 1)}
assert set(_AXIS_AND_SIGN) == set(PLACES)


@torch.no_grad()
def places_right(images: Tensor, descriptions: list[Description]) -> list[list[bool]]:
    """Per picture (N, 3, 32, 32), for each phrase that names a place: whether the centre of its colour is there."""
    images = images.float().clamp(-1, 1)
    _, background = find_background(images)
    colours = palette().to(images)
    ramp = torch.arange(SIZE) + 0.5 - SIZE / 2
    answers: list[list[bool]] = []
    for image, mean, told in zip(images, background, descriptions, strict=True):
        answers.append([])
        for phrase in told.phrases:
            if phrase.place is None:
                continue
            alpha = soft_alpha(image[None], mean[None], colours[None, phrase.colour, None])[0, 0]
            axis, sign = _AXIS_AND_SIGN[phrase.place]
            centre = (alpha.sum(1 - axis) * ramp).sum() / alpha.sum().clamp(min=1e-6)
            answers[-1].append(bool(sign * centre > 0))
    return answers
