"""S-CFG Word Weights: factors on the guidance of single words."""

from comfy_api.latest import io

from ..scfg_core.run.words import parse_weights
from .common import WordWeightsType, schema


class SCFGWordWeights(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGWordWeights",
            display_name="S-CFG Word Weights",
            description="Multiplies the guidance of the regions of single words or phrases. Needs the words of the "
            "prompt: encode it with S-CFG Text Encode.",
            search_aliases=["prompt weight", "regional CFG", "word guidance", "scfg"],
            inputs=[
                io.String.Input(
                    "weights",
                    multiline=True,
                    default="horse: 1.3, sky: 0.8",
                    tooltip="word: factor, separated by commas; phrases may have spaces. Factors from 0 to 10; "
                    "they may go below the least ratio.",
                ),
            ],
            outputs=[WordWeightsType.Output(display_name="word_weights", tooltip="For S-CFG Guidance.")],
        )

    @classmethod
    def execute(cls, weights: str) -> io.NodeOutput:
        return io.NodeOutput(parse_weights(weights))
