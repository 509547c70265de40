"""What the tests see as q and k is what the projections and norms of the layers make, text and image in place.

For families whose positions are not rotated into q and k afterwards; for the others `test_layouts` moves one patch.
"""

import pytest
import torch
from torch import Tensor

from .. import host
from .expected import sample
from .models import FAMILIES
from .probe import Probe

PARTS = {
    "anima": (1, [("cross_attn.q_norm", "cross_attn.k_norm")]),
    "cosmos": (1, [("cross_attn.q_norm", "cross_attn.k_norm")]),
    "kandinsky": (1, [("cross_attention.query_norm", "cross_attention.key_norm")]),
    "sd3": (
        0,
        [("context_block.attn.ln_q", "context_block.attn.ln_k"), ("x_block.attn.ln_q", "x_block.attn.ln_k")],
    ),
    "aura": (0, [("attn.q_norm1", "attn.k_norm1"), ("attn.q_norm2", "attn.k_norm2")]),
}
"""Which call of the third block, and the modules that make q and k of its streams, in the order of the keys."""


@pytest.mark.parametrize("name", PARTS)
def test_q_and_k_are_those_of_the_projections(patcher, name):
    family, (place, streams) = FAMILIES[name], PARTS[name]
    probe = Probe(patcher(name), family)
    block = host.unet(patcher(name)).get_submodule(probe.names[2])
    made: dict[str, list[Tensor]] = {}
    handles = [
        block.get_submodule(part).register_forward_hook(lambda _m, _a, out, part=part: keep(made, part, out))
        for pair in streams
        for part in pair
    ]
    texts = [family.text(seed, length) for seed, length in enumerate(family.lengths, start=1)]
    with probe():
        sample(probe.patcher, *texts, family.latent(10, 14), steps=1)
    for handle in handles:
        handle.remove()
    for index, call in enumerate(probe.evaluations[0].calls):
        q, k = call.attention[probe.names[2]][place]
        for side, ours in ((0, q), (1, k)):
            parts = [heads_first(made[pair[side]][index], ours) for pair in streams]
            assert torch.equal(torch.cat(parts, dim=2), ours)
        if family.order is not None:
            columns = family.columns(family.lengths[call.chunks[0]])
            _, text, image = family.order(columns, 35)
            assert q.shape[2] - parts[1].shape[2] == text.stop == image.start


ROTATED = {
    "flux1": ("txt_attn.norm.query_norm", "txt_attn.norm.key_norm"),
    "chroma": ("txt_attn.norm.query_norm", "txt_attn.norm.key_norm"),
    "hunyuan": ("txt_attn.norm.query_norm", "txt_attn.norm.key_norm"),
    "hidream": ("block.attn1.q_rms_norm_t", "block.attn1.k_rms_norm_t"),
}
"""Families that rotate positions into q and k; those of the text are all 0, so its q and k stay as they are."""


@pytest.mark.parametrize("name", ROTATED)
def test_the_text_stands_where_the_family_says(patcher, name):
    family, parts = FAMILIES[name], ROTATED[name]
    probe = Probe(patcher(name), family)
    block = host.unet(patcher(name)).get_submodule(probe.names[2])
    made: dict[str, list[Tensor]] = {}
    handles = [
        block.get_submodule(part).register_forward_hook(lambda _m, _a, out, part=part: keep(made, part, out))
        for part in parts
    ]
    texts = [family.text(seed, length) for seed, length in enumerate(family.lengths, start=1)]
    with probe():
        sample(probe.patcher, *texts, family.latent(10, 14), steps=1)
    for handle in handles:
        handle.remove()
    assert family.order is not None
    patches = family.latent(10, 14)["samples"].shape[-1] * 10 // family.patch**2
    for index, call in enumerate(probe.evaluations[0].calls):
        keys, text, _ = family.order(family.columns(family.lengths[call.chunks[0]]), patches)
        for part, side in zip(parts, call.attention[probe.names[2]][0], strict=True):
            ours = made[part][index]
            ours = ours if ours.ndim == 4 else heads_first(ours, side)
            assert side.shape[2] == keys and torch.allclose(ours, side[:, :, text], atol=1e-5)


def keep(made: dict[str, list[Tensor]], part: str, output: Tensor) -> None:
    made.setdefault(part, []).append(output.detach().clone())


def heads_first(made: Tensor, like: Tensor) -> Tensor:
    """(b, …, H, d) or (b, n, H·d) → (b, H, n, d)."""
    _, heads, _, width = like.shape
    return made.reshape(made.shape[0], -1, heads, width).movedim(2, 1)
