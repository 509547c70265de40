"""diffusers: S-CFG in anything that calls a U-Net on [unconditional; conditional] rows and then does its own CFG.

    with scfg(pipe, Settings.preset("default")) as run:
        image = pipe("a red circle", guidance_scale=5.0).images[0]

Observe: torch hooks catch the q and k of the chosen attention layers as they leave the layers' own projections.
Guide: a hook on the U-Net gives the conditional half back as ε' = ε_u + r ⊙ (ε_c − ε_u), and the CFG line of the
pipeline does the rest, `guidance_rescale` included. No processor, method or weight is replaced, so other processors
(IP-Adapter, sliced, your own) keep working, and detaching leaves the very objects that were there.

    noise       a scheduler's levels, read once for a sampling       unet      the layers of a U-Net
    layout      which rows and channels are what                    watching  the hooks on projections
    attachment  before and after each call of the U-Net
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import ScfgError, expect
from ...layers import choose_layers
from ...segmentation import Segmentation
from ...session import Collection
from ...settings import Settings
from ...trace import Run
from ...words import PromptTokens
from .attachment import Attachment
from .noise import Schedule
from .unet import JointLayer, Layer, find_layers

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

    target          a pipeline with `.unet`, or a UNet2DConditionModel called on [unconditional; conditional] rows:
                    Stable Diffusion 1.5, 2.1, XL (text, img2img, inpaint, ControlNets), DeepFloyd IF's stages.
    settings        the method's constants; None = the `default` preset.
    guidance_scale  γ; None = the pipeline's own, read at every step. Needed for IF and for a bare U-Net.
    scheduler       None = the pipeline's own. Needed for a bare U-Net.
    collection      which layers are watched, how often, within which memory.
    tokens          the words of the prompt, for legends.
    start_tokens    positions of START in the prompts; () = no START: the benchmark is the whole picture. None = the
                    first of every 77-token chunk; () where text and image are attended to jointly (IF's T5).
    word_weights    token → factor ≥ 0 on the guidance of its region.
    resegment       what takes the place of every segmentation, on its grid: masks of your own, or a control.

    Where γ ≤ 1, or the two halves of a batch are not the same pictures (two pictures without CFG, three copies of
    an even number), the U-Net's output passes untouched, and a note of the run says so. Channels of a learned
    variance are left alone. Load LoRA weights before attaching. The run records one sampling: when timesteps are
    set anew or the noise level rises, it starts afresh. Raises `ScfgError` where something needed is missing, where
    projections are fused, or where S-CFG is attached already.
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
    Schedule.of(scheduler or target.scheduler)
    layers = find_layers(unet)
    chosen = choose_layers([layer.info for layer in layers], (collection or Collection()).layers)
    watched = [layer for layer in layers if layer.info.name in chosen]
    run = Run(tokens=[tokens] if tokens else [], facts={"layers": chosen})
    attachment = Attachment(
        unet,
        run,
        settings or Settings(),
        _propagated(collection or Collection(), watched),
        scale=lambda: _scale(pipeline, guidance_scale),
        std_share=lambda: float(getattr(pipeline, "guidance_rescale", 0.0)),
        scheduler=lambda: scheduler or target.scheduler,
        start_tokens=start_tokens,
        word_weights=word_weights,
        resegment=resegment,
    )
    attachment.attach(watched)
    return attachment


def _propagated(collection: Collection, layers: Sequence[Layer]) -> Collection:
    """No propagation (S⁰ alone) where no layer attends to the picture itself."""
    if all(isinstance(layer, JointLayer) and not layer.sees_image for layer in layers):
        return replace(collection, power_weights=(1.0,))
    return collection


def _scale(pipeline: Any, given: float | None) -> float:
    """γ of this call; 0 where the pipeline says that it does no CFG, or one of three predictions (PAG)."""
    if getattr(pipeline, "do_perturbed_attention_guidance", False):
        return 0.0
    if not getattr(pipeline, "do_classifier_free_guidance", True):
        return 0.0
    return float(pipeline.guidance_scale if given is None else given)
