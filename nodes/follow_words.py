"""S-CFG Follow Words: a conditioning that acts where words of the base prompt are, while the image is made."""

from comfy_api.latest import io
from torch import Tensor

from ..scfg_core.hosts.comfyui import follow_words
from ..scfg_core.run.follow import MOST_BLENDED, FollowWords
from .common import advanced, fraction, schema
from .errors import problem, told
from .images import LATENT_CELL
from .spelling import possible_words_in

MODES = ["hard", "soft", "stretched"]
NOWHERE, EVERYWHERE, MASK = "nowhere", "everywhere", "the given mask"
FALLBACKS = {NOWHERE: "nowhere", EVERYWHERE: "everywhere", MASK: "mask"}


class SCFGFollowWords(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGFollowWords",
            display_name="S-CFG Follow Words",
            description="A second prompt, with its LoRA or ControlNet, that acts only where words of the base "
            "prompt are: its mask follows them at every step. Combine it with the base prompt, which comes from "
            "S-CFG Text Encode, and sample with a model from S-CFG Guidance or S-CFG Attention.",
            search_aliases=["regional prompt", "attention mask", "mask from words", "regional LoRA", "scfg"],
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="The prompt that acts on the words."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the base prompt, separated by commas; their regions are combined.",
                ),
                io.Combo.Input(
                    "mode",
                    options=MODES,
                    default="hard",
                    tooltip="hard: 1 where the words win. soft: their share of the attention of all tokens. "
                    "stretched: like soft, rescaled to the range 0 to 1.",
                ),
                io.Float.Input(
                    "feather", default=0.0, min=0.0, max=256.0, step=1.0, tooltip="Softens the border, in pixels."
                ),
                fraction(
                    "start_percent",
                    0.0,
                    "Point in the schedule where the prompt starts to act. Regions are clearer after the "
                    "first steps.",
                ),
                fraction(
                    "end_percent",
                    1.0,
                    "Point in the schedule where the prompt stops.",
                ),
                advanced(
                    io.Float,
                    "freeze_after",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Point in the schedule after which the mask stays as it is; 1 follows to the end.",
                ),
                advanced(
                    io.Int,
                    "blend",
                    default=1,
                    min=1,
                    max=MOST_BLENDED,
                    tooltip="Averages the regions of this many evaluations, so that the mask does not flicker.",
                ),
                advanced(
                    io.Float,
                    "min_share",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Least share of the image that the words may own. Below it, the fallback is used.",
                ),
                advanced(
                    io.Float,
                    "max_share",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Largest share of the image that the words may own. Above it, the fallback is used.",
                ),
                io.Combo.Input(
                    "fallback",
                    options=list(FALLBACKS),
                    default=NOWHERE,
                    tooltip="Where the prompt acts before the first step has shown where the words are, and when "
                    "their share is out of range.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="For the fallback “the given mask”; otherwise unused."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning",
                    tooltip="For cond of Cond Set Default Combine (base prompt: cond_DEFAULT), or for Conditioning "
                    "Combine.",
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
        conditioning: list,
        words: str,
        mode: str,
        feather: float,
        start_percent: float,
        end_percent: float,
        freeze_after: float,
        blend: int,
        min_share: float,
        max_share: float,
        fallback: str,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        request = FollowWords(
            words,
            mode,  # type: ignore[arg-type]
            feather / LATENT_CELL,
            freeze_after,
            blend,
            min_share,
            max_share,
            FALLBACKS[fallback],  # type: ignore[arg-type]
        )
        return io.NodeOutput(follow_words(conditioning, request, mask, start_percent, end_percent))
