"""S-CFG Text Encode: a prompt that keeps its words."""

from comfy_api.latest import io

from ..scfg_core.errors import ScfgError
from ..scfg_core.hosts.comfyui.tokens import words_of_prompt
from .common import schema
from .errors import told


class SCFGTextEncode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGTextEncode",
            display_name="S-CFG Text Encode",
            description="Same conditioning as CLIP Text Encode, plus the words of the prompt, so that legends and "
            "masks can name them. With other text encoders, tokens are numbered instead.",
            search_aliases=["CLIP text encode", "prompt", "words", "scfg"],
            inputs=[
                io.Clip.Input("clip", tooltip="The CLIP model of the checkpoint."),
                io.String.Input(
                    "text",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="The prompt. Weights in parentheses, embeddings and long prompts work as usual.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="conditioning", tooltip="The encoded prompt, with its words.")
            ],
        )

    @classmethod
    @told
    def execute(cls, clip, text: str) -> io.NodeOutput:
        if clip is None:
            raise ScfgError(
                "expected a CLIP, got none: the checkpoint has no text encoder; load one with a CLIP loader"
            )
        words = words_of_prompt(clip, text)
        return io.NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text), add_dict=words))
