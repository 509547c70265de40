"""S-CFG Segmentation: which word owns which part of the image, step by step."""

import numpy as np
from comfy_api.latest import io

from ..scfg_core.run.record import Run
from ..views import segmentation, segmentation_sheet
from ..views.segmentation import base_of
from .common import schema
from .errors import told
from .images import as_array, batch_input, evaluation_at, image_at, result_input, step_input, view

SHEET, ONE = "all steps", "one step"
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
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The segmentation with its legend.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @told
    def execute(cls, result: Run, show: str, step: int, batch_index: int, under: str, image=None) -> io.NodeOutput:
        def draw() -> np.ndarray:
            image_index = image_at(result, batch_index)
            base = None if image is None else as_array(image, image_index)
            if show == SHEET:
                return segmentation_sheet(result, image=image_index, base=base)
            index = evaluation_at(result, step)
            if base is None and under == STEP_PREVIEW:
                base = base_of(result.evaluations[index], image_index)
            return segmentation(result, index=index, image=image_index, base=base)

        return view(cls, result, draw)
