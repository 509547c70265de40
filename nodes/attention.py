"""S-CFG Attention: records the model's attention and changes nothing."""

from comfy_api.latest import io

from ..scfg_core import uniform_powers
from ..scfg_core.hosts.comfyui import observe
from ..scfg_core.run.session import Collection
from .common import MODEL_TOOLTIP, TraceType, advanced, listeners_of, schema, trace_of_node

DEFAULT_BUDGET = 256
"""MiB; leaves it to the device, which may lend more: see `MemoryBudget`."""


class SCFGAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGAttention",
            display_name="S-CFG Attention",
            description="Records which word each part of the image attends to, at every step. The image stays the "
            "same, bit for bit. Only needed to choose how maps are collected: S-CFG Guidance collects its own.",
            search_aliases=["attention map", "segmentation", "semantic guidance", "DAAM", "scfg"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                io.Int.Input(
                    "power_steps",
                    default=4,
                    min=1,
                    max=8,
                    tooltip="R in the paper: how many times self-attention spreads a word over its region.",
                ),
                io.Boolean.Input(
                    "self_attention",
                    default=True,
                    tooltip="Off: cross-attention alone. The regions become ragged; for comparison.",
                ),
                advanced(
                    io.Combo,
                    "layers",
                    options=["auto", "all", "last"],
                    default="auto",
                    tooltip="Which attention layers of the two deepest levels to use. all: every layer. last: the "
                    "last three of each level. auto: all layers of a level with at most six, otherwise its last "
                    "three (SDXL). Of a transformer, all: every block. last: its last five. auto: up to five, for "
                    "most models between 30 and 50 % of its depth.",
                ),
                advanced(
                    io.Int,
                    "memory_budget",
                    default=DEFAULT_BUDGET,
                    min=16,
                    max=65536,
                    step=16,
                    tooltip="Maximum memory per layer, in MiB. A layer that needs more is computed without storing "
                    "its attention map: slower, with the same result. 256 leaves it to the device: 256 on a CPU, "
                    "a twelfth of a GPU's memory.",
                ),
                advanced(
                    io.Int,
                    "update_every",
                    default=1,
                    min=1,
                    max=100,
                    tooltip="Collect maps at every k-th evaluation and reuse the last regions in between. The "
                    "scales are computed at every evaluation.",
                ),
                advanced(
                    io.Boolean,
                    "record_soft_maps",
                    default=False,
                    optional=True,
                    tooltip="Keep the soft map of every token of the positive prompt at every step, for masks of "
                    "single steps. Uses 2 bytes per token and patch: about 0.2 MB per step for SD 1.5 at 1024², "
                    "5 MB per step for SDXL with 154 tokens at 2048².",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model, with its attention recorded."),
                TraceType.Output(display_name="trace", tooltip="Record of the sampling runs of this model."),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # the host would share outputs, listener included, between equal nodes
        )

    @classmethod
    def execute(
        cls,
        model,
        power_steps: int,
        self_attention: bool,
        layers: str = "auto",
        memory_budget: int = DEFAULT_BUDGET,
        update_every: int = 1,
        record_soft_maps: bool = False,
    ) -> io.NodeOutput:
        collection = Collection(
            power_weights=uniform_powers(power_steps if self_attention else 0),
            layers=layers,  # type: ignore[arg-type]
            budget_mib=None if memory_budget == DEFAULT_BUDGET else float(memory_budget),
            every=update_every,
            soft_maps=record_soft_maps,
        )
        return io.NodeOutput(
            *observe(model, collection, listeners_of(cls.hidden.unique_id), trace_of_node(cls.hidden.unique_id))
        )
