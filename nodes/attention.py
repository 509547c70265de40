"""S-CFG Attention: watches the U-Net's attention, and changes nothing."""

from comfy_api.latest import io

from ..scfg_core import uniform_powers
from ..scfg_core.hosts.comfyui import observe
from ..scfg_core.run.session import Collection
from .common import NodeListener, TraceType, advanced, schema, trace_of_node


class SCFGAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGAttention",
            display_name="S-CFG Attention",
            description="Watches which word each part of the picture attends to, at every step. The picture stays "
            "the same, bit for bit. Needed only to choose how maps are collected: S-CFG Guidance brings its own.",
            search_aliases=["attention map", "segmentation", "semantic guidance", "DAAM", "scfg"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.x, 2.x or SDXL model."),
                io.Int.Input(
                    "power_steps",
                    default=4,
                    min=1,
                    max=8,
                    tooltip="R of the paper: how many times self-attention spreads a word over its region.",
                ),
                io.Boolean.Input(
                    "self_attention",
                    default=True,
                    tooltip="Off: cross-attention alone, as it comes. The regions get ragged; for comparison.",
                ),
                advanced(
                    io.Combo,
                    "layers",
                    options=["auto", "all", "last"],
                    default="auto",
                    tooltip="Layers of the two deepest levels that have attention: all of them, the last three of "
                    "each level, or auto: all of a level with at most six layers, else its last three (SDXL).",
                ),
                advanced(
                    io.Int,
                    "memory_budget",
                    default=256,
                    min=16,
                    max=65536,
                    step=16,
                    tooltip="MiB that one layer may take. A layer that needs more is computed without its map: "
                    "slower, with the same result.",
                ),
                advanced(
                    io.Int,
                    "update_every",
                    default=1,
                    min=1,
                    max=100,
                    tooltip="Collect maps at every k-th evaluation; between them the last regions serve. "
                    "The scales are fresh at every evaluation.",
                ),
                advanced(
                    io.Boolean,
                    "record_soft_maps",
                    default=False,
                    optional=True,
                    tooltip="Keep the soft map of every word at every step, and the words of the negative prompt: "
                    "for masks of single steps. Costs 2 bytes a token and patch: about 0.2 MB a step for SD 1.5 at "
                    "1024², 5 MB a step for SDXL with 154 tokens at 2048².",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model, watched."),
                TraceType.Output(display_name="trace", tooltip="What the runs of this model leave behind."),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # else the host gives one node's outputs, and with them its listener, to another
        )

    @classmethod
    def execute(
        cls,
        model,
        power_steps: int,
        self_attention: bool,
        layers: str = "auto",
        memory_budget: int = 256,
        update_every: int = 1,
        record_soft_maps: bool = False,
    ) -> io.NodeOutput:
        collection = Collection(
            power_weights=uniform_powers(power_steps if self_attention else 0),
            layers=layers,  # type: ignore[arg-type]
            budget_mib=float(memory_budget),
            every=update_every,
            soft_maps=record_soft_maps,
        )
        return io.NodeOutput(
            *observe(model, collection, NodeListener(cls.hidden.unique_id), trace_of_node(cls.hidden.unique_id))
        )
