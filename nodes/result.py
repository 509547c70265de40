"""S-CFG Result: the record of the run that made a latent."""

from typing import Any

import torch
from comfy_api.latest import io
from einops import rearrange
from torch import Tensor

from ..scfg_core.errors import ScfgError
from ..scfg_core.run.fingerprint import Fingerprint
from ..scfg_core.run.record import Run
from ..scfg_core.run.trace import Trace
from .common import ResultType, TraceType, schema
from .errors import told


class SCFGResult(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGResult",
            display_name="S-CFG Result",
            description="Finds the record of the run that made this latent: regions, scales and norms of every "
            "step. All S-CFG views use it. Linking the latent ensures that it is never an older run.",
            search_aliases=["trace", "record", "scfg"],
            inputs=[
                TraceType.Input("trace", tooltip="From S-CFG Guidance or S-CFG Attention on the sampler's model."),
                io.Latent.Input("latent", tooltip="The LATENT returned by the sampler."),
            ],
            outputs=[ResultType.Output(display_name="result", tooltip="The finished run, for the views.")],
        )

    @classmethod
    @told
    def execute(cls, trace: Trace, latent: dict) -> io.NodeOutput:
        return io.NodeOutput(run_of(trace, latent))


def run_of(trace: Trace, latent: dict) -> Run:
    """Newest run of `trace` that returned `latent`, S-CFG active or not. Raises `ScfgError` if none has."""
    finished = trace.runs()
    if not finished:
        raise ScfgError(
            "expected a finished run, got an empty trace: sample with the model from the same S-CFG node as this "
            "trace; if the sampler's result was cached, change the seed once"
        )
    wanted = Fingerprint.of(_packed(latent["samples"]))
    run = trace.find(lambda run: run.fingerprint is not None and run.fingerprint.matches(wanted))
    if run is None:
        raise ScfgError(
            f"expected the latent of one of the last {len(finished)} runs of this model, got another latent: "
            "connect the sampler's LATENT output directly, before any edits; if it was cached, change the seed once"
        )
    return run


def _packed(samples: Any) -> Tensor:
    """The latent as samplers run it: the parts of a nested one (image and audio) side by side, (B, 1, N)."""
    if not getattr(samples, "is_nested", False):
        return samples
    return torch.cat([rearrange(part, "b ... -> b 1 (...)") for part in samples.unbind()], dim=-1)
