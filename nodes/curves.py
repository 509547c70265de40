"""S-CFG Curves: how strongly each region is guided over the steps, before and after."""

from comfy_api.latest import io

from ..scfg_core.run.agreement import agreement
from ..scfg_core.run.record import Run
from ..views import curves
from .common import ResultType, schema
from .errors import told
from .images import batch_input, image_at, result_input, view


class SCFGCurves(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGCurves",
            display_name="S-CFG Curves",
            description="The paper's Figure 1: the norm of the classifier score ‖ε(c) − ε(∅)‖ of every region over "
            "the steps, before and after S-CFG, and the norm of the diffusion score. Uses the regions of the last "
            "step.",
            search_aliases=["norm", "plot", "figure", "scfg"],
            inputs=[
                result_input(),
                batch_input(),
                ResultType.Input(
                    "compare_with",
                    optional=True,
                    tooltip="Result of a second run with the same seed and prompt, to measure how far the regions "
                    "agree. Runs with S-CFG Attention alone see the same latents, whatever their layers and "
                    "update_every.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The curves with their legend."),
                io.String.Output(
                    display_name="agreement",
                    tooltip="Fraction of patches with the same label, and with the same foreground, as in "
                    "compare_with, over all images and all evaluations of both runs. Empty without compare_with.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @told
    def execute(cls, result: Run, batch_index: int, compare_with: Run | None = None) -> io.NodeOutput:
        text = "" if compare_with is None else _agreement(result, compare_with)
        caption = text and f"agreement with the other run: {text}"
        return view(cls, result, lambda: curves(result, image=image_at(result, batch_index), caption=caption), text)


def _agreement(result: Run, other: Run) -> str:
    """How far the two agree, or which of them has nothing to compare."""
    for run, name in ((result, "this run"), (other, "the other run")):
        if not run.evaluations:
            return f"none, for S-CFG was inactive in {name}: {'; '.join(run.notes)}"
    return str(agreement(result, other))
