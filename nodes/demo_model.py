"""S-CFG Demo Model: the small bundled model."""

from comfy_api.latest import io

from .common import schema
from .messages import tell


class SCFGDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGDemoModel",
            display_name="S-CFG Demo Model",
            description="A small model that draws picture-book scenes and comes with the pack: runs on a CPU in "
            "seconds, with no download. Use an empty latent of 256×256, and prompts like “a red boat on water”.",
            search_aliases=["demo", "example", "test model", "scfg"],
            inputs=[],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The U-Net: 64×64 pixels as latents of 32×32, v-prediction."
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="Its text encoder; unknown words are skipped, and named on the text node.",
                ),
                io.Vae.Output(display_name="vae", tooltip="A wavelet; enlarges the model's pixels fourfold."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..demo.comfyui import load_demo

        return io.NodeOutput(*load_demo(tell))
