"""S-CFG Demo Model: the small model that comes with the pack."""

from comfy_api.latest import io

from .common import schema


class SCFGDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGDemoModel",
            display_name="S-CFG Demo Model",
            description="A small model of coloured shapes that comes with the pack: runs on a CPU in seconds, with "
            "no download. Use an empty latent of 256×256, and prompts like “a red circle and a blue square”.",
            search_aliases=["demo", "example", "test model", "scfg"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The U-Net: 32×32 pixels, v-prediction."),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Its text encoder; a word that it does not know is an error.",
                ),
                io.Vae.Output(display_name="vae", tooltip="Enlarges the model's pixels eightfold."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..demo.comfyui import load_demo

        return io.NodeOutput(*load_demo())
