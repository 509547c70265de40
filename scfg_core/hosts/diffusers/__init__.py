"""diffusers: S-CFG in anything that calls a U-Net or a transformer for both prompts and then does its own CFG.

    with scfg(pipe, Settings.preset("default")) as run:
        image = pipe("a red circle", guidance_scale=5.0).images[0]

Observe: torch hooks catch the q and k of the chosen attention layers: as they leave the layers' own projections,
or, in transformers, as they enter PyTorch's attention. Guide: a hook on the network gives the conditional
prediction back as ε' = ε_u + r ⊙ (ε_c − ε_u), and the CFG line of the pipeline does the rest. Where the two prompts
run one after the other, the pipeline holds the conditional prediction meanwhile: ε' is written into it once the
other one is there. Whatever the pipeline does next (`guidance_rescale`, the norms of Qwen-Image and Lumina 2) acts
on ε'. No processor, method or weight is replaced, so other processors (IP-Adapter, sliced, your own) keep working,
and detaching leaves the very objects that were there.

    schedule    a scheduler's levels, read once for a sampling      models    how each network is called
    layout      which rows and channels are what                    watching  the hooks on layers
    keys        where text and image are among a layer's keys       words     the words of a prompt
    attachment  before and after every call of the network          maps      a U-Net's maps in one call
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...errors import ScfgError
from ...method.segment import Segmentation
from ...method.settings import Settings
from ...prompt import Prompt
from ...run.record import Run
from ...run.session import Collection
from ...run.weights import WordWeights
from .attachment import Attachment
from .maps import collect_maps
from .models import Model, Wording, model_of
from .models.unet import UNet
from .schedule import Scheduler
from .words import namer

__all__ = ["Attachment", "collect_maps", "scfg"]


def scfg(
    target: Any,
    settings: Settings | None = None,
    *,
    guidance_scale: float | None = None,
    scheduler: Scheduler | None = None,
    collection: Collection | None = None,
    prompt: Prompt | str | None = None,
    start_tokens: Sequence[int] | None = None,
    word_weights: WordWeights | Mapping[str, float] | Mapping[int, float] | None = None,
    resegment: Callable[[Segmentation], Segmentation] | None = None,
) -> Attachment:
    """Attach S-CFG to a pipeline or its network until `detach()`, or for a `with` block, which gives the `Run`.

    target          a pipeline with `.unet` or `.transformer`, or one of these networks alone: Stable Diffusion 1.5,
                    2.1, XL (text, img2img, inpaint, ControlNets), DeepFloyd IF's stages, Stable Diffusion 3 and
                    3.5, Qwen-Image, Chroma, Lumina 2, Z-Image, Flux.1 with true CFG.
    settings        the method's constants; None = the `default` preset.
    guidance_scale  the scale that you sample with; None = the pipeline's own, read at every step. Needed for IF and
                    for a network alone, and for Qwen-Image and Flux, whose pipelines keep `true_cfg_scale` to
                    themselves.
    scheduler       None = the pipeline's own. Needed for a network alone.
    collection      which layers are observed, how often, within which memory.
    prompt          for legends and word weights: the text, which the pipeline's tokenizers cut into words; or its
                    tokens, described one by one.
    start_tokens    positions of START in the prompts; () = no START: the benchmark is the whole image. None = as
                    the model has them: the first of every 77-token chunk of a CLIP prompt, the first columns of
                    SD 3, Lumina 2 and Z-Image, none elsewhere.
    word_weights    factors ≥ 0 on the guidance of words of `prompt`: {"star": 2} for the phrase that has the word,
                    {3: 2} for the token of that index, or what `parse_weights` makes of "star: 2 @ 0-0.5".
    resegment       what takes the place of every segmentation, on its grid: masks of your own, or a control.

    Where γ ≤ 1, or a call is not CFG (two images without it, three copies of an even number, a conditional forward
    that no unconditional one follows), the output passes untouched, and a note of the run says so. Channels of a
    learned variance are left alone. Load LoRA weights before attaching. The run records one sampling: when
    timesteps are set anew or the noise level rises, it starts afresh. Raises `ScfgError` where something needed is
    missing, where the network is not a known one, where projections are fused, or where S-CFG is attached already.
    """
    parts = (getattr(target, name, None) for name in ("unet", "transformer"))
    network = next((part for part in parts if part is not None), target)
    pipeline = None if network is target else target
    model = model_of(network)
    if guidance_scale is None and not (model.own_scale and hasattr(type(pipeline), "guidance_scale")):
        name = "true_cfg_scale" if pipeline is not None and not model.own_scale else "guidance_scale"
        raise ScfgError(
            f"expected guidance_scale=…, got none: a {type(target).__name__} does not tell its {name}; "
            "pass the one that you sample with"
        )
    if scheduler is None and not hasattr(pipeline, "scheduler"):
        raise ScfgError(
            f"expected scheduler=…, got none: a {type(target).__name__} has no scheduler; "
            "pass the one that you sample with"
        )
    model.levels(scheduler or target.scheduler)
    collection = collection or Collection()
    layers = model.choose_layers(collection.layers)
    described = prompt if isinstance(prompt, Prompt) else None
    names = namer(pipeline, model, prompt) if isinstance(prompt, str) else None
    starts = None if start_tokens is None else tuple(start_tokens)
    attachment = Attachment(
        model,
        Run(prompts=[described] if described else [], layers=tuple(layers)),
        settings or Settings(),
        _propagated(collection, model),
        scale=lambda: model.scale(_scale(pipeline, guidance_scale)),
        scheduler=lambda: scheduler or target.scheduler,
        wording=Wording(described, names, starts),
        word_weights=word_weights,
        resegment=resegment,
    )
    attachment.attach(list(layers.values()))
    return attachment


def _propagated(collection: Collection, model: Model) -> Collection:
    """No propagation (S⁰ alone) where no layer attends to the image itself."""
    if isinstance(model, UNet) and not model.propagates:
        return replace(collection, power_weights=(1.0,))
    return collection


def _scale(pipeline: Any, given: float | None) -> float:
    """The scale of this call; 0 where the pipeline says that it does no CFG, or one of three predictions (PAG)."""
    if getattr(pipeline, "do_perturbed_attention_guidance", False):
        return 0.0
    if not getattr(pipeline, "do_classifier_free_guidance", True):
        return 0.0
    return float(pipeline.guidance_scale if given is None else given)
