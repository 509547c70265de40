"""S-CFG Scale Map: how strongly each part of the image is guided."""

import numpy as np
from comfy_api.latest import io

from ..scfg_core.run.record import Run
from ..views import scale_map
from .common import schema
from .errors import told
from .images import batch_input, evaluation_at, image_at, result_input, step_input, view


class SCFGScaleMap(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGScaleMap",
            display_name="S-CFG Scale Map",
            description="The guidance scale in every part of the image at one step: white is the sampler's CFG "
            "scale, warm colours are higher, cold colours are lower.",
            search_aliases=["guidance map", "CFG map", "heat map", "scfg"],
            inputs=[result_input(), step_input(), batch_input()],
            outputs=[io.Image.Output(display_name="image", tooltip="The scale map with its colour bar.")],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    @told
    def execute(cls, result: Run, step: int, batch_index: int) -> io.NodeOutput:
        def draw() -> np.ndarray:
            evaluation = result.evaluations[evaluation_at(result, step)]
            return scale_map(evaluation, image=image_at(result, batch_index))

        return view(cls, result, draw)
