"""q and k as a network makes them, as views of (b, n, heads·d), and what float64 makes of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

LOUDNESS = 0.02
"""Of the tokens: so the two best scores of a patch differ by 0.2 % in the median, as in SDXL's own maps."""


@dataclass
class Block:
    """q and k of a self-attention and of the cross-attention after it, (b, H, n or L, d)."""

    q: Tensor
    k: Tensor
    cross_q: Tensor
    cross_k: Tensor

    @property
    def scale(self) -> float:
        return self.q.shape[3] ** -0.5


def block(seed, rows, columns, tokens, *, batch=1, heads=2, width=40, dtype=torch.float32):
    """Near patches attend to each other, and tokens to places, by as little as real ones do (see `LOUDNESS`)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
    waves = draw(2, heads * width) * 1.5
    places = torch.stack((y, x), -1).flatten(0, 1).double() @ waves
    phases = draw(heads * width)
    features = 1.6 * torch.cos(places + phases)

    def view(side):
        return side.to(dtype).unflatten(-1, (heads, width)).transpose(1, 2)

    n = rows * columns
    q, k = (view(features + 0.4 * draw(batch, n, heads * width)) for _ in range(2))
    cross_q = view(features + 0.4 * draw(batch, n, heads * width))
    cross = LOUDNESS * draw(batch, tokens, heads * width)
    return Block(q, k, cross_q, view(cross))


def joint_keys(some):
    """Text and image keys of one softmax: all tokens together take a share of a row that varies from 1 to 90 %."""
    return torch.cat((some.cross_k + 2 * some.k.mean(dim=2, keepdim=True), some.k), dim=2)


def exact_mean(q, k, scale, kept=None):
    """Eq. 8 in float64."""
    scores = q.double() @ k.double().transpose(-1, -2) * scale
    if kept is not None:
        scores = scores.masked_fill(~kept[:, None, None], -torch.inf)
    return scores.softmax(-1).mean(1)


def exact_propagation(maps, columns, weights):
    """Eq. 10 in float64, term by term."""
    total, columns = weights[0] * columns.double(), columns.double()
    for weight in weights[1:]:
        columns = maps @ columns
        total = total + weight * columns
    return total


def labels(columns):
    """Eq. 9."""
    return (columns / columns.mean(dim=1, keepdim=True)).argmax(-1)


def error(found, exact):
    """Largest difference, relative to the largest value."""
    return float((found.double() - exact).abs().max() / exact.abs().max())
