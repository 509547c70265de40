"""S-CFG Curves: how strongly each region is guided over the steps, before and after."""

from comfy_api.latest import io

from ..scfg_core.run.agreement import agreement
from ..scfg_core.run.record import Run
from ..views import curves
from .common import ResultType, schema
from .pictures import batch_input, image_at, result_input, shown


class SCFGCurves(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGCurves",
            display_name="S-CFG Curves",
            description="The paper's Figure 1: the norm of the classifier score ‖ε(c) − ε(∅)‖ of every region over "
            "the steps, before and after S-CFG, and that of the diffusion score. The last step's regions.",
            search_aliases=["norm", "plot", "figure", "scfg"],
            inputs=[
                result_input(),
                batch_input(),
                ResultType.Input(
                    "compare_with",
                    optional=True,
                    tooltip="Result of a second run with the same seed and prompt, to see how far its regions "
                    "agree. Two models that S-CFG Attention only watches, with other layers or update_every, see "
                    "the same latents.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The curves with their legend."),
                io.String.Output(
                    display_name="agreement",
                    tooltip="Share of patches with the same label, and with the same foreground, as in "
                    "compare_with: all images, all evaluations that both runs have. Empty without it.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, result: Run, batch_index: int, compare_with: Run | None = None) -> io.NodeOutput:
        agreed = "" if compare_with is None else str(agreement(result, compare_with))
        caption = agreed and f"agreement with the other run: {agreed}"
        return shown(cls, curves(result, image=image_at(result, batch_index), caption=caption), agreed)
