"""Notes to the user: what a sampling run reports, why, and what to do about it.

The tables of messages in docs/MESSAGES.md and the help pages are made from this enum.
"""

from enum import Enum


class Note(Enum):
    """One sentence of a status line or of `Run.notes`.

    text    the sentence, lower case, without a full stop; `{…}` are fields of `str.format`.
    cause   why it appears.
    remedy  what the user can do.
    """

    def __init__(self, text: str, cause: str, remedy: str) -> None:
        self.text = text
        self.cause = cause
        self.remedy = remedy

    @property
    def can_be_remedied(self) -> bool:
        """Whether there is something for the user to do."""
        return not self.remedy.startswith("Nothing to do")

    # The whole run is plain CFG: "S-CFG inactive: …"

    CFG_ONE = (
        "cfg is 1; there is no guidance to scale",
        "At cfg 1 the sampler does not compute the unconditional prediction.",
        "Raise cfg in the sampler.",
    )
    UNKNOWN_MODEL = (
        "the attention of this model cannot be observed",
        "S-CFG does not know the model's family: a video model, or one with an attention of its own.",
        "Use a model of docs/MODELS.md, or set when_not_watchable to magnitude.",
    )
    NOT_AN_IMAGE = (
        "the latent is not an image or a video",
        "Audio latents and latents of several parts are not supported.",
        "Sample an image latent.",
    )
    NO_CFG_FUNCTION = (
        "this guider bypasses the CFG function (PerpNeg, Basic, …)",
        "The guider combines the predictions with its own formula.",
        "Use KSampler or CFGGuider.",
    )
    UNKNOWN_PROMPTS = (
        "this guider passes prompts to the CFG function that it did not evaluate together",
        "S-CFG cannot match the predictions to the attention maps.",
        "Use KSampler or CFGGuider.",
    )
    TILED = (
        "another node splits the image into tiles",
        "The attention of a tile does not describe the whole image.",
        "Turn off tiling of the U-Net.",
    )
    CONTEXT_WINDOWS = (
        "context windows split the run into slices",
        "The attention of a slice does not describe the whole latent.",
        "Remove the context windows node.",
    )
    AMBIGUOUS = (
        "two prompt entries are the same conditioning",
        "The same conditioning is combined with itself, so its attention maps cannot be told apart.",
        "Encode the prompt twice.",
    )
    NO_MAPS = (
        "no attention maps were observed",
        "Another node or an attention processor replaces the attention of the model.",
        "Bypass it, or set when_not_watchable to magnitude.",
    )
    NOTHING_SAMPLED = (
        "nothing was sampled",
        "The run had no steps.",
        "Set at least one step.",
    )

    # The run is guided, with a limitation: remarks behind "S-CFG active: …"

    LAYER_SKIPPED = (
        "skipped a layer whose tokens, batch rows or mask are changed (HyperTile, ToMe, attention couple, …)",
        "Another node or processor changes what this layer attends to.",
        "Nothing to do: the other layers are used.",
    )
    NO_FOREGROUND = (
        "START does not separate the foreground; the benchmark is the whole image",
        "Normal with a zeroed negative prompt (ConditioningZeroOut).",
        "Nothing to do, or encode a negative prompt.",
    )
    REUSED = (
        "some evaluations had no attention maps; reusing the last regions",
        "A cache such as EasyCache or TeaCache skips calls of the U-Net.",
        "Nothing to do.",
    )
    NOT_FINITE = (
        "some attention maps or predictions were not finite; using plain CFG there",
        "The model returns NaN or infinity, often in half precision.",
        "Run the model in bf16 or fp32.",
    )
    UNRECORDED = (
        "an evaluation could not be recorded and is missing from the views (see the log)",
        "Recording failed. The image is still guided.",
        "Please report the lines in the log.",
    )
    UNCOMPILED = (
        "torch.compile is bypassed while attention is observed",
        "Code compiled by ComfyUI's node cannot be observed.",
        "Nothing to do: the model runs at uncompiled speed.",
    )
    UNKNOWN_WORD = (
        "the prompt has no word {word!r} to weight",
        "The word is not in the prompt, or the prompt was not encoded with S-CFG Text Encode.",
        "Check the spelling, and encode the prompt with S-CFG Text Encode.",
    )
    NOT_FOLLOWED = (
        "words are not followed; the mask stays at its fallback",
        "The model that samples the conditioning has no S-CFG node, its attention was not observed, or "
        "freeze_after lies before the first step.",
        "Connect S-CFG Guidance or S-CFG Attention to the sampler's model, and raise freeze_after.",
    )
    NOT_EVERYWHERE = (
        "a followed mask begins nowhere instead of everywhere, which would leave no room for the default prompt",
        "A default prompt acts where the others leave room.",
        "Nothing to do, or join the prompts with Conditioning Combine.",
    )
    FELL_BACK = (
        "a followed region left its allowed share of the image; its fallback was used there",
        "The words owned less than min_share or more than max_share in some evaluations.",
        "Change the shares in S-CFG Follow Words, or choose other words.",
    )
    OWNS_NOTHING = (
        "{word!r} owns no region: no effect",
        "No part of the image went to the word while its weight acted, or it is a function word such as “on”.",
        "Set scope to phrase in S-CFG Word Weights, or weight another word of the phrase.",
    )
    OUT_OF_MEMORY = (
        "S-CFG ran out of memory; falling back to plain CFG",
        "The attention maps do not fit beside the model.",
        "Lower memory_budget in S-CFG Attention, or the image size.",
    )
    INTERNAL_ERROR = (
        "internal S-CFG error; falling back to plain CFG: {error!r}",
        "A bug in S-CFG. The image is finished with plain CFG.",
        "Please report the lines in the log.",
    )

    # diffusers only

    NO_GUIDANCE = (
        "the guidance scale is 1 or less, or the batch is odd; S-CFG skipped these calls",
        "The call is not classifier-free guidance, or it is PAG.",
        "Set guidance_scale above 1.",
    )
    OTHER_LENGTH = (
        "the prompt was described with {expected} tokens, but the model was given {given}; its words are not used",
        "`prompt=` does not match the text that the pipeline encodes.",
        "Describe the tokens as the pipeline's tokenizer pads them.",
    )
    NOT_A_PAIR = (
        "the two halves of the batch are different images; S-CFG skipped these calls",
        "The batch is not [unconditional; conditional]: several images without CFG, or InstructPix2Pix.",
        "Call the model on [unconditional; conditional] rows of the same images.",
    )
    NO_TEXT = (
        "the model was called without encoder_hidden_states; S-CFG skipped these calls",
        "There is no text to attend to.",
        "Pass encoder_hidden_states.",
    )
    NO_NEGATIVE = (
        "no unconditional prediction followed the conditional one; S-CFG skipped these calls",
        "The pipeline does no CFG at these steps: no negative prompt, or CFG that ends early (cfg_trunc_ratio).",
        "Pass negative_prompt, and a true_cfg_scale or guidance_scale above 1.",
    )
