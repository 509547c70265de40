"""diffusers: S-CFG in anything that calls a U-Net on [unconditional; conditional] rows and then does its own CFG.

    with scfg(pipe, Settings.preset("default")) as run:
        image = pipe("a red circle", guidance_scale=5.0).images[0]

Observe: torch hooks catch the q and k of the chosen attention layers as they leave the layers' own projections.
Guide: a hook on the U-Net gives the conditional half back as ε' = ε_u + r ⊙ (ε_c − ε_u), and the CFG line of the
pipeline does the rest. No processor, method or weight is replaced, so other processors (IP-Adapter, sliced, your
own) keep working, and detaching leaves the very objects that were there.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...errors import ScfgError, expect
from ...layers import choose_layers
from ...segmentation import Segmentation
from ...session import Collection
from ...settings import Settings
from ...trace import Run
from ...words import PromptTokens
from .attachment import Attachment
from .unet import find_blocks

__all__ = ["Attachment", "scfg"]


def scfg(
    target: Any,
    settings: Settings | None = None,
    *,
    guidance_scale: float | None = None,
    scheduler: Any = None,
    collection: Collection | None = None,
    tokens: PromptTokens | None = None,
    start_tokens: Sequence[int] | None = None,
    word_weights: Mapping[int, float] | None = None,
    resegment: Callable[[Segmentation], Segmentation] | None = None,
) -> Attachment:
    """Attach S-CFG to a pipeline or a U-Net until `detach()`, or for a `with` block, which gives the `Run`.

    target          a pipeline with `.unet`, or a UNet2DConditionModel called on [unconditional; conditional] rows.
    settings        the method's constants; None = the `default` preset.
    guidance_scale  γ; None = the pipeline's own, read at every step. Needed for a bare U-Net.
    scheduler       None = the pipeline's own. Needed for a bare U-Net.
    collection      which layers are watched, how often, within which memory.
    tokens          the words of the prompt, for legends.
    start_tokens    positions of START in the prompts; None = the first of every 77-token chunk; () = no START.
    word_weights    token → factor ≥ 0 on the guidance of its region.
    resegment       what takes the place of every segmentation, on its grid: masks of your own, or a control.

    Where γ ≤ 1 the U-Net's output passes untouched, as diffusers does no CFG there. The run records one sampling:
    when the noise level rises again, it starts afresh. Raises `ScfgError` where something needed is missing, or
    S-CFG is attached already.
    """
    unet = getattr(target, "unet", target)
    pipeline = None if unet is target else target
    expect(
        guidance_scale is not None or hasattr(type(pipeline), "guidance_scale"),
        ScfgError,
        "guidance_scale=…",
        "none",
        f"a {type(target).__name__} does not tell its guidance scale; pass the one that you sample with",
    )
    expect(
        scheduler is not None or hasattr(pipeline, "scheduler"),
        ScfgError,
        "scheduler=…",
        "none",
        f"a {type(target).__name__} has none; pass the one that you sample with",
    )
    collection = collection or Collection()
    blocks = find_blocks(unet)
    chosen = choose_layers([block.info for block in blocks], collection.layers)
    run = Run(tokens=[tokens] if tokens else [], facts={"layers": chosen})
    attachment = Attachment(
        unet,
        run,
        settings or Settings(),
        collection,
        scale=lambda: _scale(pipeline, guidance_scale),
        scheduler=lambda: scheduler or target.scheduler,
        start_tokens=start_tokens,
        word_weights=word_weights,
        resegment=resegment,
    )
    attachment.attach([block for block in blocks if block.info.name in chosen])
    return attachment


def _scale(pipeline: Any, given: float | None) -> float:
    """γ of this call; 0 where the pipeline says that it does no CFG."""
    if not getattr(pipeline, "do_classifier_free_guidance", True):
        return 0.0
    return float(pipeline.guidance_scale if given is None else given)
