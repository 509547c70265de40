"""S-CFG Guidance: gives every region of the image its own guidance scale."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..scfg_core import PRESETS, Settings, WordWeights
from ..scfg_core.hosts.comfyui import guide
from .common import (
    MODEL_TOOLTIP,
    TraceType,
    WordWeightsType,
    advanced,
    fraction,
    listeners_of,
    schema,
    trace_of_node,
)

CUSTOM = "custom"
PLAIN, MAGNITUDE = "plain", "magnitude"
_ONLY_CUSTOM = " Used only by the preset “custom”."


class SCFGGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGGuidance",
            display_name="S-CFG Guidance",
            description="Gives every region of the image its own CFG scale, so that all regions are guided as "
            "strongly as the foreground. Segments the latent at each step with the model's own attention: no "
            "training, no extra model. Place it between the model and the sampler, in any order with other "
            "patches.",
            search_aliases=["S-CFG", "semantic CFG", "semantic-aware guidance", "CFG", "guidance", "scfg"],
            inputs=[
                io.Model.Input("model", tooltip=MODEL_TOOLTIP),
                fraction(
                    "strength",
                    1.0,
                    "How far the region scales move from the CFG scale. 0 is plain CFG, bit for bit.",
                ),
                fraction(
                    "start_percent",
                    0.0,
                    "Point in the schedule where S-CFG starts; 0 is the first step.",
                ),
                fraction(
                    "end_percent",
                    1.0,
                    "Point in the schedule where S-CFG stops; 1 is the last step.",
                ),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="default",
                    tooltip="default: every region as strong as the foreground. paper: the equations as printed. "
                    "authors: matches the authors' code. balanced: default with the mean scale kept at cfg. "
                    "custom: uses the settings below, which the other presets ignore.",
                ),
                *_custom_inputs(),
                WordWeightsType.Input(
                    "word_weights",
                    optional=True,
                    tooltip="Guidance factors for words and the phrases they belong to, from S-CFG Word Weights.",
                ),
                advanced(
                    io.Combo,
                    "when_not_watchable",
                    options=[PLAIN, MAGNITUDE],
                    default=PLAIN,
                    optional=True,
                    tooltip="If the attention of the model cannot be observed. plain: plain CFG. magnitude: guides "
                    "small patches equally strongly, without knowing the words; not the paper's method.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The model, guided region by region."),
                TraceType.Output(display_name="trace", tooltip="Record of the sampling runs of this model."),
            ],
            hidden=[io.Hidden.unique_id],
            not_idempotent=True,  # the host would share outputs, listener included, between equal nodes
        )

    @classmethod
    def execute(
        cls,
        model,
        strength: float,
        start_percent: float,
        end_percent: float,
        preset: str,
        word_weights: WordWeights | Mapping[str, float] | None = None,
        when_not_watchable: str = PLAIN,
        **custom: Any,
    ) -> io.NodeOutput:
        settings = Settings(**custom) if preset == CUSTOM else Settings.preset(preset)
        settings = replace(settings, strength=strength, start=start_percent, end=end_percent)
        ignored = preset != CUSTOM and any(getattr(Settings(), name) != value for name, value in custom.items())
        remark = f" [preset {preset}: the settings below it are ignored]" if ignored else ""
        listeners = listeners_of(cls.hidden.unique_id, remark)
        trace = trace_of_node(cls.hidden.unique_id)
        by_magnitude = when_not_watchable == MAGNITUDE
        return io.NodeOutput(*guide(model, settings, word_weights, listeners, trace, by_magnitude))


def _custom_inputs() -> list[Any]:
    """Widgets below the preset, in the order of `Settings`; all optional, so that old workflows still load."""
    return [
        advanced(
            io.Combo,
            "benchmark",
            options=["foreground", "all"],
            default="foreground",
            optional=True,
            tooltip="Target for all regions: the mean guidance of the foreground, or of the whole "
            "image." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Float,
            "ratio_min",
            default=0.8,
            min=0.0,
            max=1.0,
            step=0.05,
            optional=True,
            tooltip="Minimum region scale, relative to the CFG scale." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Float,
            "ratio_max",
            default=3.0,
            min=1.0,
            max=1000.0,
            step=0.1,
            optional=True,
            tooltip="Maximum region scale, relative to the CFG scale." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Combo,
            "cap",
            options=["soft", "hard", "none"],
            default="soft",
            optional=True,
            tooltip="soft: no region is raised above 15. hard: no scale exceeds 15, not even your CFG scale (as in "
            "the authors' code). none: no limit." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Boolean,
            "smooth_ratio",
            default=True,
            optional=True,
            tooltip="Slightly blur the borders between the region scales." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Boolean,
            "mean_preserving",
            default=False,
            optional=True,
            tooltip="Keep the mean scale of the image at the CFG scale: guidance moves between regions but does "
            "not increase overall." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Combo,
            "regions",
            options=["semantic", "patch"],
            default="semantic",
            optional=True,
            tooltip="semantic: one region per token. patch: every patch is its own region; a control for "
            "comparison." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Combo,
            "foreground_rule",
            options=["start_vs_rest", "argmax"],
            default="start_vs_rest",
            optional=True,
            tooltip="How START finds the foreground. start_vs_rest: START against the sum of all other tokens (as "
            "in the authors' code). argmax: START against every other token." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Combo,
            "renormalise",
            options=["after_fusion", "per_layer"],
            default="after_fusion",
            optional=True,
            tooltip="When the token maps are normalised. after_fusion: after averaging the layers. per_layer: in "
            "every layer." + _ONLY_CUSTOM,
        ),
        advanced(
            io.Boolean,
            "smooth_maps",
            default=False,
            optional=True,
            tooltip="Blur the token maps before the segmentation." + _ONLY_CUSTOM,
        ),
    ]
