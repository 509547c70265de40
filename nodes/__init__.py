"""Every node of the pack, in the order in which a graph uses them."""

from comfy_api.latest import ComfyExtension, io

from .attention import SCFGAttention
from .curves import SCFGCurves
from .demo_model import SCFGDemoModel
from .follow_words import SCFGFollowWords
from .guidance import SCFGGuidance
from .queue import add_prompt_handler
from .result import SCFGResult
from .routes import add_routes
from .scale_map import SCFGScaleMap
from .segmentation import SCFGSegmentation
from .text_encode import SCFGTextEncode
from .token_mask import SCFGTokenMask
from .word_weights import SCFGWordWeights

NODES: list[type[io.ComfyNode]] = [
    SCFGDemoModel,
    SCFGTextEncode,
    SCFGAttention,
    SCFGGuidance,
    SCFGWordWeights,
    SCFGFollowWords,
    SCFGResult,
    SCFGSegmentation,
    SCFGScaleMap,
    SCFGCurves,
    SCFGTokenMask,
]


class ScfgExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        add_routes()  # here, for older hosts never call on_load
        add_prompt_handler()
        return NODES
