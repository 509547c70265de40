"""S-CFG Guidance: gives every region of the picture its own guidance scale."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..scfg_core import PRESETS, Settings
from ..scfg_core.hosts.comfyui import guide
from .common import NodeListener, TraceType, WordWeightsType, advanced, schema, trace_of_node

CUSTOM = "custom"
_ONLY_CUSTOM = " Read by the preset “custom” only."


class SCFGGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGGuidance",
            display_name="S-CFG Guidance",
            description="Guides every region of the picture as strongly as the foreground on average, in place of "
            "one CFG scale for all. Segments the latent at each step by the model's own attention; no training, no "
            "extra model. Put it between the model and the sampler, in any order with other patches.",
            search_aliases=["S-CFG", "semantic CFG", "semantic-aware guidance", "CFG", "guidance", "scfg"],
            inputs=[
                io.Model.Input("model", tooltip="A Stable Diffusion 1.x, 2.x or SDXL model."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far the scales move from the plain CFG scale. 0 is plain CFG, bit for bit.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the schedule S-CFG begins to act; 0 is the first step.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where in the schedule S-CFG stops acting; 1 is the last step.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="default",
                    tooltip="default: for pictures. paper: the equations as printed. authors: equal to the "
                    "authors' code. custom: the settings below; the other presets do not read them.",
                ),
                *_custom_inputs(),
                WordWeightsType.Input(
                    "word_weights",
                    optional=True,
                    tooltip="Factors on the guidance of single words, from S-CFG Word Weights.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model, guided by region."),
                TraceType.Output(display_name="trace", tooltip="What the runs of this model leave behind."),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # else the host gives one node's outputs, and with them its listener, to another
        )

    @classmethod
    def execute(
        cls,
        model,
        strength: float,
        start_percent: float,
        end_percent: float,
        preset: str,
        word_weights: dict[str, float] | None = None,
        **custom: Any,
    ) -> io.NodeOutput:
        settings = Settings(**custom) if preset == CUSTOM else Settings.preset(preset)
        settings = replace(settings, strength=strength, start=start_percent, end=end_percent)
        unread = preset != CUSTOM and any(getattr(Settings(), name) != value for name, value in custom.items())
        remark = f" [preset {preset}: the settings below it are not read]" if unread else ""
        listener = NodeListener(cls.hidden.unique_id, remark)
        trace = trace_of_node(cls.hidden.unique_id)
        return io.NodeOutput(*guide(model, settings, word_weights, listener, trace))


def _custom_inputs() -> list[Any]:
    """The widgets below the preset, in the order of `Settings`; all optional, so that old workflows still load."""
    return [
        io.Combo.Input(
            "benchmark",
            options=["foreground", "all"],
            default="foreground",
            optional=True,
            tooltip="What all regions are brought to: the foreground's guidance, or the whole picture's."
            + _ONLY_CUSTOM,
        ),
        io.Float.Input(
            "ratio_min",
            default=0.8,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip="Least scale of a region, as a part of the CFG scale." + _ONLY_CUSTOM,
        ),
        io.Float.Input(
            "ratio_max",
            default=3.0,
            min=1.0,
            max=1000.0,
            step=0.1,
            optional=True,
            tooltip="Greatest scale of a region, as a multiple of the CFG scale." + _ONLY_CUSTOM,
        ),
        io.Combo.Input(
            "cap",
            options=["soft", "hard", "none"],
            default="soft",
            optional=True,
            tooltip="soft: no region is raised above 15. hard: nothing is above 15, your own scale included "
            "(the authors' way). none: no limit." + _ONLY_CUSTOM,
        ),
        io.Boolean.Input(
            "smooth_ratio",
            default=True,
            optional=True,
            tooltip="Blur the borders between the scales a little." + _ONLY_CUSTOM,
        ),
        io.Boolean.Input(
            "mean_preserving",
            default=False,
            optional=True,
            tooltip="Keep the picture's mean scale at the CFG scale: guidance moves between regions, and is not "
            "raised on the whole." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Combo,
            "regions",
            options=["semantic", "patch"],
            default="semantic",
            optional=True,
            tooltip="semantic: one region per token. patch: every patch its own region; a control for comparison."
            + _ONLY_CUSTOM,
        ),
        advanced(
            io.Combo,
            "foreground_rule",
            options=["start_vs_rest", "argmax"],
            default="start_vs_rest",
            optional=True,
            tooltip="How the foreground is found from the START token: against the sum of all other tokens (the "
            "authors' way), or as the winner among all tokens." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Combo,
            "renormalise",
            options=["after_fusion", "per_layer"],
            default="after_fusion",
            optional=True,
            tooltip="When the words' maps are brought to one scale: after the layers are joined, or in each layer."
            + _ONLY_CUSTOM,
        ),
        advanced(
            io.Boolean,
            "smooth_maps",
            default=False,
            optional=True,
            tooltip="Blur the words' maps before regions are cut." + _ONLY_CUSTOM,
        ),
    ]
