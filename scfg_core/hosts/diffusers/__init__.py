"""diffusers: S-CFG in anything that calls a U-Net on [unconditional; conditional] rows and then does its own CFG.

    with scfg(pipe, Settings.preset("default")) as run:
        image = pipe("a red circle", guidance_scale=5.0).images[0]

Observe: torch hooks catch the q and k of the chosen attention layers as they leave the layers' own projections.
Guide: a hook on the U-Net gives the conditional half back as ε' = ε_u + r ⊙ (ε_c − ε_u), and the CFG line of the
pipeline does the rest. `guidance_rescale` takes the standard deviation of ε', as RescaleCFG does in ComfyUI. No
processor, method or weight is replaced, so other processors (IP-Adapter, sliced, your own) keep working, and
detaching leaves the very objects that were there.

    schedule    a scheduler's levels, read once for a sampling      models    the layers of a U-Net
    layout      which rows and channels are what                    watching  the hooks on projections
    attachment  before and after every call of the U-Net            maps      a U-Net's maps in one call
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...collect.layers import choose_layers
from ...errors import ScfgError
from ...method.segment import Segmentation
from ...method.settings import Settings
from ...prompt import Prompt
from ...run.record import Run
from ...run.session import Collection
from ...run.weights import WordWeights
from .attachment import Attachment
from .maps import collect_maps
from .models import JointLayer, Layer, find_layers
from .schedule import Schedule, Scheduler

__all__ = ["Attachment", "collect_maps", "scfg"]


def scfg(
    target: Any,
    settings: Settings | None = None,
    *,
    guidance_scale: float | None = None,
    scheduler: Scheduler | None = None,
    collection: Collection | None = None,
    prompt: Prompt | None = None,
    start_tokens: Sequence[int] | None = None,
    word_weights: WordWeights | Mapping[str, float] | Mapping[int, float] | None = None,
    resegment: Callable[[Segmentation], Segmentation] | None = None,
) -> Attachment:
    """Attach S-CFG to a pipeline or a U-Net until `detach()`, or for a `with` block, which gives the `Run`.

    target          a pipeline with `.unet`, or a UNet2DConditionModel called on [unconditional; conditional] rows:
                    Stable Diffusion 1.5, 2.1, XL (text, img2img, inpaint, ControlNets), DeepFloyd IF's stages.
    settings        the method's constants; None = the `default` preset.
    guidance_scale  γ; None = the pipeline's own, read at every step. Needed for IF and for a bare U-Net.
    scheduler       None = the pipeline's own. Needed for a bare U-Net.
    collection      which layers are observed, how often, within which memory.
    prompt          the words of the prompt, for legends and word weights.
    start_tokens    positions of START in the prompts; () = no START: the benchmark is the whole image. None = the
                    first of every 77-token chunk; () where text and image are attended to jointly (IF's T5).
    word_weights    factors ≥ 0 on the guidance of words of `prompt`: {"star": 2} for the phrase that has the word,
                    {3: 2} for the token of that index, or what `parse_weights` makes of "star: 2 @ 0-0.5".
    resegment       what takes the place of every segmentation, on its grid: masks of your own, or a control.

    Where γ ≤ 1, or the two halves of a batch are not the same images (two images without CFG, three copies of
    an even number), the U-Net's output passes untouched, and a note of the run says so. Channels of a learned
    variance are left alone. Load LoRA weights before attaching. The run records one sampling: when timesteps are
    set anew or the noise level rises, it starts afresh. Raises `ScfgError` where something needed is missing, where
    projections are fused, or where S-CFG is attached already.
    """
    unet = getattr(target, "unet", target)
    pipeline = None if unet is target else target
    if guidance_scale is None and not hasattr(type(pipeline), "guidance_scale"):
        raise ScfgError(
            f"expected guidance_scale=…, got none: a {type(target).__name__} has no guidance_scale; "
            "pass the one that you sample with"
        )
    if scheduler is None and not hasattr(pipeline, "scheduler"):
        raise ScfgError(
            f"expected scheduler=…, got none: a {type(target).__name__} has no scheduler; "
            "pass the one that you sample with"
        )
    Schedule.of(scheduler or target.scheduler)
    layers = find_layers(unet)
    chosen = choose_layers([layer.info for layer in layers], (collection or Collection()).layers)
    watched = [layer for layer in layers if layer.info.name in chosen]
    run = Run(prompts=[prompt] if prompt else [], layers=tuple(chosen))
    attachment = Attachment(
        unet,
        run,
        settings or Settings(),
        _propagated(collection or Collection(), watched),
        scale=lambda: _scale(pipeline, guidance_scale),
        scheduler=lambda: scheduler or target.scheduler,
        prompt=prompt,
        start_tokens=start_tokens,
        word_weights=word_weights,
        resegment=resegment,
    )
    attachment.attach(watched)
    return attachment


def _propagated(collection: Collection, layers: Sequence[Layer]) -> Collection:
    """No propagation (S⁰ alone) where no layer attends to the image itself."""
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
