"""S-CFG Token Mask: where words are, as a mask for other nodes."""

from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..scfg_core import Grid, Segmentation, TokenMaps
from ..scfg_core.errors import ScfgError
from ..scfg_core.run.masks import feather, soft_mask, stretch
from ..scfg_core.run.record import Run
from ..scfg_core.run.regions import SCOPES, Scope, known_words, word_mask
from ..scfg_core.run.words import labels_of
from .common import schema
from .errors import problem, told
from .images import LATENT_CELL, active, evaluation_at, result_input
from .spelling import possible_words_in

HARD, SOFT, STRETCHED = "hard", "soft", "stretched"
AVERAGE, ONE = "average of all steps", "one step"


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
                    tooltip="hard: 1 where the words win, without stray blocks. soft: their share of the attention "
                    "of all tokens. stretched: like soft, rescaled to the range 0 to 1; write the whole phrase, "
                    "such as “yellow tent”.",
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
                io.Combo.Input(
                    "scope",
                    options=[*SCOPES],
                    default=SCOPES[0],
                    optional=True,
                    tooltip="What has to win in a hard mask. phrase: the whole phrase that the word belongs to, "
                    "with its adjectives. word: the word alone.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="mask",
                    tooltip="One mask per image of the batch; of videos, per frame of the latent.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, words: str | None = None) -> bool | str:
        return problem(possible_words_in, words)

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
        scope: Scope = SCOPES[0],
    ) -> io.NodeOutput:
        return io.NodeOutput(token_mask(result, words, mode, over, step, feather, image, scope))


def token_mask(
    run: Run,
    words: str,
    mode: str,
    over: str,
    step: int,
    radius: float,
    image: Tensor | None,
    scope: Scope = SCOPES[0],
) -> Tensor:
    """MASK (B, H, W) in 0…1; of T frames (B·T, H, W), those of an image one after the other.

    Raises `ScfgError` if S-CFG was inactive, a word is not in the prompt, or a step has no soft maps.
    """
    known = known_words(words, active(run).prompts, scope if mode == HARD else "word")
    index = evaluation_at(run, step) if over == ONE else None
    if mode == HARD:
        found = _mean_scores(run) if index is None else _segmentation(run, index, scope)
        size = _size(run, image, found.grid.frames)
        mask = word_mask(found, run.prompts, known, size, scope=scope, min_region=run.min_region)
    else:
        scores = _mean_scores(run) if index is None else _soft_maps(run, index)
        size = _size(run, image, scores.grid.frames)
        wanted = sorted({label for word in known for label in labels_of(word, run.prompts)})
        mask = soft_mask(scores, wanted, size)
        mask = stretch(mask) if mode == STRETCHED else mask
    return feather(rearrange(mask, "b (t h) w -> (b t) h w", t=size.frames), radius)


def _mean_scores(run: Run) -> TokenMaps:
    scores = run.mean_scores()
    if scores is None:
        raise ScfgError("expected token maps, got none: no attention was observed in this run")
    return scores


def _soft_maps(run: Run, index: int) -> TokenMaps:
    """Ĉ of an evaluation, or of the last one before it that has any."""
    recorded = [evaluation for evaluation in run.evaluations[: index + 1] if evaluation.soft is not None]
    scores = recorded[-1].soft_maps() if recorded else None
    if scores is None:
        raise ScfgError(
            "expected soft maps of this step, got none: turn on record_soft_maps in S-CFG Attention, or use "
            "the average of all steps"
        )
    return scores


def _segmentation(run: Run, index: int, scope: Scope) -> Segmentation | TokenMaps:
    """The regions of an evaluation; its soft maps, where it has them, tell those of phrases more exactly."""
    evaluation = run.evaluations[index]
    scores = evaluation.soft_maps() if scope == "phrase" else None
    return scores or Segmentation(evaluation.labels, evaluation.foreground, frames=evaluation.frames)


def _size(run: Run, image: Tensor | None, frames: int) -> Grid:
    """Pixels of the masks of an image, its frames one below the other."""
    if image is not None:
        return Grid(frames * image.shape[1], image.shape[2], frames)
    if run.fingerprint is None:
        raise ScfgError("expected a finished run, got one that is still sampling: connect S-CFG Result")
    height, width = run.fingerprint.shape[-2:]
    return Grid(frames * height * LATENT_CELL, width * LATENT_CELL, frames)
