"""Everything that an attachment could leave behind."""

from torch import nn


def state(unet: nn.Module) -> list[object]:
    """Processors, methods put on modules, hooks."""
    return [
        (name, id(getattr(module, "processor", None)), sorted(vars(module)))
        + tuple(len(getattr(module, hooks)) for hooks in ("_forward_hooks", "_forward_pre_hooks"))
        + tuple(len(getattr(module, f"{hooks}_with_kwargs")) for hooks in ("_forward_hooks", "_forward_pre_hooks"))
        + (len(module._forward_hooks_always_called),)
        for name, module in unet.named_modules()
    ]
