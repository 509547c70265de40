"""S-CFG Result: the record of the run that made a latent."""

from comfy_api.latest import io

from ..scfg_core.errors import ScfgError
from ..scfg_core.run.fingerprint import Fingerprint
from ..scfg_core.run.record import Run
from ..scfg_core.run.trace import Trace
from .common import ResultType, TraceType, schema


class SCFGResult(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="SCFGResult",
            display_name="S-CFG Result",
            description="The record of the run that made this latent: regions, scales and norms of every step. All "
            "S-CFG views take it. Linking the latent makes sure that it is never an older run.",
            search_aliases=["trace", "record", "scfg"],
            inputs=[
                TraceType.Input("trace", tooltip="From S-CFG Guidance or S-CFG Attention of the sampler's model."),
                io.Latent.Input("latent", tooltip="The LATENT that the sampler returned."),
            ],
            outputs=[ResultType.Output(display_name="result", tooltip="The finished run, for the views.")],
        )

    @classmethod
    def execute(cls, trace: Trace, latent: dict) -> io.NodeOutput:
        return io.NodeOutput(run_of(trace, latent))


def run_of(trace: Trace, latent: dict) -> Run:
    """The newest run of `trace` that returned `latent`. Raises `ScfgError` for none, or one that saw nothing."""
    finished = trace.runs()
    if not finished:
        raise ScfgError(
            "expected a finished run, got an empty trace: sample with the model that comes out of the same S-CFG "
            "node as this trace; if the sampler's result was cached, change its seed once"
        )
    wanted = Fingerprint.of(latent["samples"])
    run = trace.find(lambda each: each.fingerprint is not None and each.fingerprint.matches(wanted))
    if run is None:
        raise ScfgError(
            f"expected the latent of one of the last {len(finished)} runs of this model, got another one: connect "
            "the sampler's own LATENT output, before it is edited; if it was cached, change the seed once"
        )
    if not run.evaluations:
        raise ScfgError(f"expected a run that S-CFG took part in, got an inactive one: {'; '.join(run.notes)}")
    return run
