"""S-CFG Word Weights: guidance factors for words and the phrases that they belong to."""

from comfy_api.latest import io

from ..scfg_core.run.regions import SCOPES, Scope
from ..scfg_core.run.weights import parse_weights
from .common import WordWeightsType, schema
from .errors import problem, told
from .spelling import unknown_words


class SCFGWordWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGWordWeights",
            display_name="S-CFG Word Weights",
            description="Multiplies the guidance scale in the regions of words and of the phrases that they belong "
            "to. Encode the prompt with S-CFG Text Encode, so that its words are known.",
            search_aliases=["prompt weight", "regional CFG", "word guidance", "scfg"],
            inputs=[
                io.String.Input(
                    "weights",
                    multiline=True,
                    default="horse: 1.3, sky: 0.8",
                    tooltip="word: factor, separated by commas; phrases may contain spaces. Factors from 0 to 10; "
                    "the result may be below ratio_min. An at sign and two numbers from 0 to 1 limit a factor to a "
                    "part of the schedule: see the help page.",
                ),
                io.Combo.Input(
                    "scope",
                    options=[*SCOPES],
                    default=SCOPES[0],
                    optional=True,
                    tooltip="What a factor acts on. phrase: the region of the whole phrase that the word belongs "
                    "to, with its adjectives. word: the region of the word alone, which is often empty.",
                ),
            ],
            outputs=[WordWeightsType.Output(display_name="word_weights", tooltip="For S-CFG Guidance.")],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None) -> bool | str:
        return problem(parse_weights, weights, remark=_unknown)

    @classmethod
    @told
    def execute(cls, weights: str, scope: Scope = SCOPES[0]) -> io.NodeOutput:
        return io.NodeOutput(parse_weights(weights, scope))


def _unknown(weights: str) -> str | None:
    """What is said of weighted words that no prompt of the workflow has: the run is guided without them."""
    unknown = unknown_words(str(entry.word) for entry in parse_weights(weights).entries)
    return unknown and f"no prompt has the word {unknown}"
