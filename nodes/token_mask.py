"""S-CFG Token Mask: where words are, as a mask for other nodes."""

from comfy_api.latest import io
from torch import Tensor

from ..scfg_core import Grid
from ..scfg_core.errors import ScfgError
from ..scfg_core.run.masks import feather, hard_mask, labels_of_scores, soft_mask, stretch
from ..scfg_core.run.record import Run
from ..scfg_core.run.words import labels_of
from .common import schema
from .errors import problem, told
from .images import active, evaluation_at, result_input

HARD, SOFT, STRETCHED = "hard", "soft", "stretched"
AVERAGE, ONE = "average of all steps", "one step"
LATENT_CELL = 8
"""Pixels per latent cell, used if no image is connected."""


class SCFGTokenMask(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGTokenMask",
            display_name="S-CFG Token Mask",
            description="Where words of the prompt are in the image, as a MASK for inpainting, detailers or "
            "regional prompts. Encode the prompt with S-CFG Text Encode, so that its words are known.",
            search_aliases=["mask from words", "text to mask", "segmentation mask", "clipseg", "scfg"],
            inputs=[
                result_input(),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the prompt, separated by commas; their regions are combined.",
                ),
                io.Combo.Input(
                    "mode",
                    options=[HARD, SOFT, STRETCHED],
                    default=HARD,
                    tooltip="hard: 1 where the words win. soft: their share of the attention of all tokens. "
                    "stretched: like soft, rescaled to the range 0 to 1; fits the shape best.",
                ),
                io.Combo.Input(
                    "over",
                    options=[AVERAGE, ONE],
                    default=AVERAGE,
                    tooltip="Attention averaged over all steps, or of one step. Soft masks of one step need "
                    "record_soft_maps in S-CFG Attention.",
                ),
                io.Int.Input(
                    "step",
                    default=-1,
                    min=-1,
                    max=9999,
                    tooltip="Step for a mask of one step, counted from 1; −1 is the last.",
                ),
                io.Float.Input(
                    "feather", default=0.0, min=0.0, max=256.0, step=1.0, tooltip="Softens the border, in pixels."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The mask takes the size of this image; otherwise 8 times the latent size.",
                ),
            ],
            outputs=[io.Mask.Output(display_name="mask", tooltip="One mask per image of the batch.")],
        )

    @classmethod
    def validate_inputs(cls, words: str | None = None) -> bool | str:
        return problem(phrases_of, words)

    @classmethod
    @told
    def execute(
        cls,
        result: Run,
        words: str,
        mode: str,
        over: str,
        step: int,
        feather: float,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        return io.NodeOutput(token_mask(result, words, mode, over, step, feather, image))


def token_mask(
    run: Run, words: str, mode: str, over: str, step: int, radius: float, image: Tensor | None
) -> Tensor:
    """MASK (B, H, W) in 0…1. Raises `ScfgError` if S-CFG was inactive, a word is not in the prompt, or a step has
    no soft maps.
    """
    wanted = _labels(active(run), words)
    size = _size(run, image)
    chosen = len(run.evaluations) - 1 if over != ONE else evaluation_at(run, step)
    scores = run.mean_scores()
    if over == ONE and mode != HARD:
        recorded = [evaluation for evaluation in run.evaluations[: chosen + 1] if evaluation.soft is not None]
        scores = recorded[-1].soft_maps() if recorded else None
        if scores is None:
            raise ScfgError(
                "expected soft maps of this step, got none: turn on record_soft_maps in S-CFG Attention, or use "
                "the average of all steps"
            )
    if scores is None:
        raise ScfgError("expected token maps, got none: no attention was observed in this run")
    if mode != HARD:
        mask = soft_mask(scores, wanted, size)
        mask = stretch(mask) if mode == STRETCHED else mask
    else:
        labels = run.evaluations[chosen].labels if over == ONE else labels_of_scores(scores)
        mask = hard_mask(labels, wanted, size)
    return feather(mask, radius)


def phrases_of(words: str) -> list[str]:
    """The words or phrases between commas. Raises `ScfgError` if there is none."""
    phrases = [phrase.strip() for phrase in words.split(",") if phrase.strip()]
    if not phrases:
        raise ScfgError("expected words of the prompt, got none: write some, separated by commas")
    return phrases


def _labels(run: Run, words: str) -> list[int]:
    known = [text for prompt in run.prompts for text, _ in prompt.words_with_labels()]
    if not known:
        raise ScfgError("expected a prompt with known words, got numbered tokens: encode it with S-CFG Text Encode")
    found = {phrase: labels_of(phrase, run.prompts) for phrase in phrases_of(words)}
    missing = [phrase for phrase, labels in found.items() if not labels]
    if missing:
        given = ", ".join(map(repr, missing))
        raise ScfgError(f"expected words of the prompt, got {given}: use some of {', '.join(dict.fromkeys(known))}")
    return sorted({label for labels in found.values() for label in labels})


def _size(run: Run, image: Tensor | None) -> Grid:
    if image is not None:
        return Grid(image.shape[1], image.shape[2])
    if run.fingerprint is None:
        raise ScfgError("expected a finished run, got one that is still sampling: connect S-CFG Result")
    height, width = run.fingerprint.shape[-2:]
    return Grid(height * LATENT_CELL, width * LATENT_CELL)
