"""How S-CFG takes part in ComfyUI's CFG: in the single CFG slot, or just behind it.

Where a function is in the slot it is given the rescaled conditional prediction; where none is, the first post-CFG
function replaces the result, which loses no digits and leaves the conditional prediction as PAG and SAG want to
read it.
"""

from collections.abc import Callable

from torch import Tensor

from ...method.guidance import combine, rescale


class CfgSlot:
    """The CFG of one evaluation.

    ratio  from the slot's arguments to the ratio map r (B, 1, H, W), or None for plain CFG.
    acts   whether S-CFG changes anything; else it is asked for r all the same, to be recorded.
    """

    def __init__(self, ratio: Callable[[dict], Tensor | None], acts: bool) -> None:
        self._ratio = ratio
        self._acts = acts
        self._held = False

    def __deepcopy__(self, memo: dict) -> "CfgSlot":
        """Older hosts copy the model options deeply; it is the same evaluation in every copy."""
        return self

    def bound_to(self, model_options: dict) -> dict:
        """A copy of the model options in which S-CFG takes part in the CFG."""
        options = dict(model_options)
        inner = options.get("sampler_cfg_function")
        if self._acts and inner is not None:
            options["sampler_cfg_function"] = lambda args: self._chained(inner, args)
            return options
        if self._acts:
            options["sampler_cfg_function"] = self._hold
        options["sampler_post_cfg_function"] = [self._post_cfg, *options.get("sampler_post_cfg_function", [])]
        return options

    def _chained(self, inner: Callable[[dict], Tensor], args: dict) -> Tensor:
        """Whatever is in the CFG slot, given the rescaled conditional prediction."""
        ratio = self._ratio(args)
        if ratio is None:
            return inner(args)
        x, cond = args["input"], rescale(args["cond_denoised"], args["uncond_denoised"], ratio)
        return inner({**args, "cond_denoised": cond, "cond": x - cond})

    def _hold(self, args: dict) -> Tensor:
        """Shows that the host's CFG runs; its result is replaced a moment later, in `_post_cfg`."""
        self._held = True
        return args["cond"]

    def _post_cfg(self, args: dict) -> Tensor:
        """The first post-CFG function: the CFG itself where S-CFG acts, bit for bit the host's where r is 1."""
        if self._acts and not self._held:
            return args["denoised"]
        ratio = self._ratio({**args, "input_cond": args["cond"], "input_uncond": args["uncond"]})
        if not self._acts:
            return args["denoised"]
        cond, uncond, scale = args["cond_denoised"], args["uncond_denoised"], args["cond_scale"]
        return uncond + (cond - uncond) * scale if ratio is None else combine(cond, uncond, ratio, scale)
