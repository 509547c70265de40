"""One evaluation as a small JSON value for the live view: the page draws it."""

from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from ..scfg_core.run.record import Evaluation, Run
from ..views.owners import owners_of, shares_of
from ..views.palette import diverging
from ..views.scale_map import span_of

LOSSLESS_SIDE = 64
"""Previews up to this size go as PNG: they are small, and are shown enlarged."""

RAMP = diverging(np.linspace(-1, 1, 7)).tolist()
LONGEST_WORD = 80
THOUSANDTHS = 1000


def frame_of(run: Run, evaluation: Evaluation, image: int = 0) -> dict[str, Any]:
    """A frame from an evaluation whose tensors are on the CPU.

    grid     [h, w]; labels: base64 of h·w uint16, the number of the owner in `words`.
    ratios   base64 of h·w uint16, r in thousandths; ramp, span: colours over −span…span of log r.
    words    text, colour, area 0…1 and mean γ·r of every owner, the largest first.
    preview  data URL of the predicted picture, or None.
    """
    shares = shares_of([evaluation], owners_of(run), image)
    labels, ratio = evaluation.labels[image].numpy(), evaluation.ratio[image].numpy()
    numbers = np.zeros(labels.shape, dtype=np.uint16)
    for number, share in enumerate(shares):
        numbers[share.owner.mask(labels)] = number
    return {
        "index": evaluation.index,
        "step": run.step_of(evaluation),
        "steps": max(1, len(run.schedule) - 1),
        "scale": evaluation.guidance_scale,
        "grid": list(labels.shape),
        "labels": _packed(numbers),
        "ratios": _packed(np.clip(np.nan_to_num(ratio, nan=1.0) * THOUSANDTHS, 0, 65535).round()),
        "ramp": RAMP,
        "span": span_of(ratio),
        "words": [
            {
                "text": share.owner.text[:LONGEST_WORD],
                "colour": list(share.owner.colour),
                "area": share.area,
                "scale": share.scale,
            }
            for share in shares
        ],
        "preview": None if evaluation.preview is None else _data_url(evaluation.preview[image].numpy()),
    }


def _packed(values: np.ndarray) -> str:
    return b64encode(values.astype("<u2").tobytes()).decode()


def _data_url(picture: np.ndarray) -> str:
    """RGB uint8 (3, H, W) → data URL."""
    kind = "PNG" if max(picture.shape[1:]) <= LOSSLESS_SIDE else "JPEG"
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(file, kind)
    return f"data:image/{kind.lower()};base64,{b64encode(file.getvalue()).decode()}"
