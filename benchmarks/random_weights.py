"""Random weights of the usual size: nothing to download, and every layer has its true shape."""

import torch


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """N(0, 1/fan-in) for matrices, 1 and 0 for norms, 0 for biases; all noise is cut out of one block of it."""
    noise = torch.randn(2**22, generator=torch.Generator().manual_seed(0))
    for index, parameter in enumerate(module.parameters()):
        if parameter.ndim == 1:
            parameter.zero_()
            continue
        flat, scale = parameter.view(-1), parameter[0].numel() ** -0.5
        for first in range(0, flat.numel(), noise.numel()):
            part = flat[first : first + noise.numel()]
            part.copy_(noise.roll(7919 * (index + first % 997))[: part.numel()] * scale)
    for part in module.modules():
        if isinstance(part, torch.nn.GroupNorm | torch.nn.LayerNorm) and part.weight is not None:
            part.weight.fill_(1.0)
