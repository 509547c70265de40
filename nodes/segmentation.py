"""S-CFG Segmentation: which word owns which part of the image, step by step."""

from comfy_api.latest import io

from ..scfg_core.errors import ScfgError
from ..scfg_core.run.record import Run
from ..views import followed, segmentation, segmentation_sheet
from ..views.canvas import Picture
from ..views.segmentation import base_of
from .common import schema
from .errors import told
from .images import batch_input, evaluation_at, frames_at, image_at, result_input, step_input, view

SHEET, ONE = "all steps", "one step"
REGIONS, FOLLOWED = "regions", "followed words"
STEP_PREVIEW, NOTHING = "the step's preview", "nothing"


class SCFGSegmentation(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGSegmentation",
            display_name="S-CFG Segmentation",
            description="Which word owns which part of the image, according to the model's attention: one step or "
            "all. The legend lists words, areas and mean guidance scales; a word has the same colour in every "
            "view.",
            search_aliases=["attention map", "label map", "heat map", "DAAM", "scfg"],
            inputs=[
                result_input(),
                io.Combo.Input(
                    "show",
                    options=[ONE, SHEET],
                    default=ONE,
                    tooltip="One step, or a contact sheet of up to twelve steps.",
                ),
                step_input(),
                batch_input(),
                io.Combo.Input(
                    "under",
                    options=[STEP_PREVIEW, NOTHING],
                    default=STEP_PREVIEW,
                    tooltip="Background of the regions if no image is connected.",
                ),
                io.Image.Input("image", optional=True, tooltip="The finished image, shown behind the regions."),
                io.Combo.Input(
                    "draw",
                    options=[REGIONS, FOLLOWED],
                    default=REGIONS,
                    optional=True,
                    tooltip="The regions of all words, or the masks of S-CFG Follow Words.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The segmentation with its legend.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @told
    def execute(
        cls, result: Run, show: str, step: int, batch_index: int, under: str, image=None, draw: str = REGIONS
    ) -> io.NodeOutput:
        def drawn() -> Picture:
            image_index = image_at(result, batch_index)
            base = None if image is None else frames_at(image, image_index, result)
            index = None if show == SHEET else evaluation_at(result, step)
            if base is None and index is not None and under == STEP_PREVIEW:
                base = base_of(result.evaluations[index], image_index)
            draw_run = _followed if draw == FOLLOWED else _regions
            return draw_run(result, index, image_index, base)

        return view(cls, result, drawn)


def _regions(run: Run, index: int | None, image: int, base: Picture | None) -> Picture:
    """One evaluation, or a contact sheet where the index is None."""
    if index is None:
        return segmentation_sheet(run, image=image, base=base)
    return segmentation(run, index=index, image=image, base=base)


def _followed(run: Run, index: int | None, image: int, base: Picture | None) -> Picture:
    if not any(seen.followed is not None for seen in run.evaluations):
        raise ScfgError(
            "expected a run in which a mask follows words, got one without: connect S-CFG Follow Words to the "
            "sampler, or draw the regions"
        )
    return followed(run, indices=None if index is None else [index], image=image, base=base)
