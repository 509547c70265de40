"""Every node of the pack, in the order in which a graph uses them."""

from comfy_api.latest import ComfyExtension, io

from .attention import SCFGAttention
from .demo_model import SCFGDemoModel
from .guidance import SCFGGuidance

NODES: list[type[io.ComfyNode]] = [SCFGDemoModel, SCFGAttention, SCFGGuidance]


class ScfgExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
