"""S-CFG Demo Model: the small bundled model."""

from comfy_api.latest import io

from .common import schema


class SCFGDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGDemoModel",
            display_name="S-CFG Demo Model",
            description="A small bundled model that draws coloured shapes. Runs on a CPU in seconds, with no "
            "download. Use an empty latent of 256×256 and prompts such as “a red circle and a blue square”.",
            search_aliases=["demo", "example", "test model", "scfg"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The U-Net: 32×32 pixels, v-prediction."),
                io.Clip.Output(display_name="clip", tooltip="Its text encoder. Unknown words are an error."),
                io.Vae.Output(display_name="vae", tooltip="Upscales the output of the model 8×."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..demo.comfyui import load_demo

        return io.NodeOutput(*load_demo())
