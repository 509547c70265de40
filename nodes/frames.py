"""One evaluation as a small JSON message for the live view, which draws it."""

from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ..scfg_core.run.evaluation import Evaluation
from ..scfg_core.run.record import Run
from ..views.owners import owners_of, shares_of
from ..views.palette import diverging
from ..views.scale_map import span_of

LOSSLESS_SIDE = 64
"""Previews up to this side length are sent as PNG: they are small and shown enlarged."""

RAMP = diverging(np.linspace(-1, 1, 7)).tolist()
MAX_WORD_LENGTH = 80
THOUSANDTHS = 1000


def frame_of(run: Run, evaluation: Evaluation, image: int = 0) -> dict[str, Any]:
    """A frame of an evaluation whose tensors are on the CPU.

    grid     [h, w].
    labels   base64 of h·w uint16: index of the patch's owner in `words`.
    ratios   base64 of h·w uint16: r in thousandths.
    ramp     colours over −span…span of log r.
    words    text, colour, area 0…1 and mean γ·r of every owner, largest area first.
    followed words, share 0…1 of the image and mask of every mask that follows words; the mask is base64 of h·w
             uint16 in thousandths.
    preview  data URL of the predicted image, or None.
    """
    shares = shares_of([evaluation], owners_of(run), image)
    labels, ratio = evaluation.labels[image].numpy(), evaluation.ratio[image].numpy()
    indices = np.zeros(labels.shape, dtype=np.uint16)
    for index, share in enumerate(shares):
        indices[share.owner.mask(labels)] = index
    return {
        "index": evaluation.index,
        "step": run.step_of(evaluation),
        "steps": max(1, len(run.schedule) - 1),
        "scale": evaluation.guidance_scale,
        "grid": list(labels.shape),
        "labels": _encode(indices),
        "ratios": _encode(np.clip(np.nan_to_num(ratio, nan=1.0) * THOUSANDTHS, 0, 65535).round()),
        "ramp": RAMP,
        "span": span_of(ratio),
        "words": [
            {
                "text": share.owner.text[:MAX_WORD_LENGTH],
                "colour": list(share.owner.colour),
                "area": share.area,
                "scale": share.scale,
            }
            for share in shares
        ],
        "followed": _followed(run, evaluation, image),
        "preview": None if evaluation.preview is None else _data_url(evaluation.preview[image].numpy()),
    }


def _followed(run: Run, evaluation: Evaluation, image: int) -> list[dict[str, Any]]:
    if evaluation.followed is None:
        return []
    masks = evaluation.followed[:, image].float().clamp(0, 1).numpy()
    return [
        {
            "words": words[:MAX_WORD_LENGTH],
            "share": float(mask.mean()),
            "mask": _encode((mask * THOUSANDTHS).round()),
        }
        for words, mask in zip(run.followed, masks, strict=True)
    ]


def _encode(values: np.ndarray) -> str:
    return b64encode(values.astype("<u2").tobytes()).decode()


def _data_url(image: np.ndarray) -> str:
    """RGB uint8 (3, H, W) → data URL."""
    format = "PNG" if max(image.shape[1:]) <= LOSSLESS_SIDE else "JPEG"
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(file, format)
    return f"data:image/{format.lower()};base64,{b64encode(file.getvalue()).decode()}"
