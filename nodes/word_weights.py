"""S-CFG Word Weights: guidance factors for single words."""

from comfy_api.latest import io

from ..scfg_core.run.words import parse_weights
from .common import WordWeightsType, schema
from .errors import problem, told


class SCFGWordWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGWordWeights",
            display_name="S-CFG Word Weights",
            description="Multiplies the guidance scale in the regions of single words or phrases. Encode the "
            "prompt with S-CFG Text Encode, so that its words are known.",
            search_aliases=["prompt weight", "regional CFG", "word guidance", "scfg"],
            inputs=[
                io.String.Input(
                    "weights",
                    multiline=True,
                    default="horse: 1.3, sky: 0.8",
                    tooltip="word: factor, separated by commas; phrases may contain spaces. Factors from 0 to 10; "
                    "the result may be below ratio_min.",
                ),
            ],
            outputs=[WordWeightsType.Output(display_name="word_weights", tooltip="For S-CFG Guidance.")],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None = None) -> bool | str:
        return problem(parse_weights, weights)

    @classmethod
    @told
    def execute(cls, weights: str) -> io.NodeOutput:
        return io.NodeOutput(parse_weights(weights))
