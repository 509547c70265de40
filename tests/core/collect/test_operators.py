"""What acts as S, by PyTorch, against float64: odd sizes, views, keys left out, joint keys."""

import pytest
import torch
from qk import block, error, exact_mean, exact_propagation, joint_keys, labels

from scfg_core.collect.budget import MIB, MemoryBudget
from scfg_core.collect.operators import LEAST_SHARE, FlashAttention, RowBlocks, SelfHeads, StoredMap
from scfg_core.method.attention import head_mean_attention

PAPER, UNEVEN = (0, 0.25, 0.25, 0.25, 0.25), (0.1, 0.2, 0.7)
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16


def operator_of(kind, heads, block_bytes=MIB):
    if kind is FlashAttention:
        return FlashAttention(heads, 24, MemoryBudget(256 * MIB, block_bytes))
    make = StoredMap.made_of if kind is StoredMap else kind
    return make(heads, MemoryBudget(256 * MIB, block_bytes))


@pytest.mark.parametrize("block_bytes", [MIB, 40_000, 1])
@pytest.mark.parametrize("dtype", [FP32, FP16, BF16])
@pytest.mark.parametrize("width", [40, 64, 80, 128, 160])
def test_head_mean_is_that_of_float64(width, dtype, block_bytes):
    some = block(width, 13, 11, 21, batch=2, heads=3, width=width, dtype=dtype)
    kept = torch.rand(2, 143, generator=torch.Generator().manual_seed(0)) < 0.8
    for keys, mask in ((some.k, None), (some.k, kept), (some.cross_k, None)):
        found = head_mean_attention(some.q, keys, scale=some.scale, block=block_bytes, kept=mask)
        assert error(found, exact_mean(some.q, keys, some.scale, mask)) <= 3e-6


@pytest.mark.parametrize("weights", [PAPER, UNEVEN])
@pytest.mark.parametrize("kind", [StoredMap, RowBlocks])
def test_propagation_is_that_of_float64(kind, weights):
    some = block(1, 13, 11, 21, batch=2, width=40)
    columns = head_mean_attention(some.cross_q, some.cross_k, width=24)
    exact = exact_propagation(exact_mean(some.q, some.k, some.scale), columns, weights)
    found = operator_of(kind, SelfHeads(some.q, some.k, some.scale)).propagate(columns, weights)
    assert error(found, exact) <= 3e-6


def joint_block(seed, rows, columns, tokens, *, cut=True, **sizes):
    """q, text and image keys in one softmax, where they are, and which take part."""
    some = block(seed, rows, columns, tokens, batch=2, **sizes)
    k, n = joint_keys(some), rows * columns
    kept = torch.ones(2, tokens + n, dtype=torch.bool)
    kept[1, tokens - 4 : tokens] = kept[0, -2:] = False
    return some, k, slice(0, tokens), slice(tokens, tokens + n), kept if cut else None


def exact_joint(some, k, image, kept, normalise):
    exact = exact_mean(some.q, k, some.scale, kept)
    return exact, exact[..., image] / (exact[..., image].sum(-1, keepdim=True) if normalise else 1)


@pytest.mark.parametrize(
    ("kind", "normalise", "most"),
    [
        (StoredMap, False, 3e-6),
        (StoredMap, True, 3e-6),
        (RowBlocks, False, 3e-6),
        (RowBlocks, True, 3e-6),
        (FlashAttention, True, 3e-6),
    ],
)
def test_joint_keys_give_both_maps(kind, normalise, most):
    some, k, text, image, kept = joint_block(2, 5, 9, 13, width=40)
    exact, maps = exact_joint(some, k, image, kept, normalise)
    operator = operator_of(kind, SelfHeads(some.q, k, some.scale, image, kept, normalise), 20_000)
    cross = operator.text_columns(text)
    assert error(cross, exact[..., text]) <= most
    assert error(operator.propagate(cross, UNEVEN), exact_propagation(maps, exact[..., text], UNEVEN)) <= most


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("tokens", [21, 150])
@pytest.mark.parametrize(("dtype", "allowed"), [(FP32, 0.0005), (FP16, 0.001), (BF16, 0.001)])
def test_attention_in_place_of_a_joint_map_gives_the_labels_of_float64(dtype, allowed, tokens, cut):
    """More columns than go through one attention, too."""
    changed = patches = 0
    for seed in range(8):
        some, k, text, image, kept = joint_block(seed, 21, 19, tokens, cut=cut, heads=4, width=40, dtype=dtype)
        exact, maps = exact_joint(some, k, image, kept, True)
        heads = SelfHeads(some.q, k, some.scale, image, kept, True)
        operator = FlashAttention(heads, tokens, MemoryBudget(MIB, MIB))
        found = operator.propagate(operator.text_columns(text), PAPER)
        live = slice(0, tokens - 4)
        expected = exact_propagation(maps, exact[..., text], PAPER)
        changed += int((labels(found[..., live]) != labels(expected[..., live])).sum())
        patches += found.shape[0] * found.shape[1]
    assert patches > 6000 and changed <= allowed * patches


@pytest.mark.parametrize("kind", [StoredMap, RowBlocks, FlashAttention])
def test_a_text_of_which_no_key_is_left_has_no_share(kind):
    some, k, text, image, kept = joint_block(2, 5, 9, 13, width=40)
    kept[1, text] = False
    operator = operator_of(kind, SelfHeads(some.q, k, some.scale, image, kept, True))
    columns = operator.text_columns(text)
    found = operator.propagate(columns, PAPER)
    assert not columns[1].any() and not found[1].any() and found[0].all()


def test_a_row_without_any_share_of_the_image_stays_finite():
    some, k, text, image, _ = joint_block(2, 5, 9, 13, width=40, dtype=FP16)
    loud = k.clone()
    loud[:, :, text] = 40 * some.q.mean(dim=2, keepdim=True)
    operator = operator_of(FlashAttention, SelfHeads(some.q, loud, some.scale, image, None, True))
    found = operator.propagate(operator.text_columns(text), PAPER)
    assert operator._image_share.min() == LEAST_SHARE and found.isfinite().all()


def test_attention_serves_no_joint_layer_as_it_is():
    some, k, _, image, _ = joint_block(0, 5, 9, 13, width=40)
    with pytest.raises(ValueError, match="use another operator"):
        FlashAttention(SelfHeads(some.q, k, some.scale, image), 24, MemoryBudget(MIB, MIB))


@pytest.mark.parametrize(("dtype", "allowed"), [(FP32, 0.0005), (FP16, 0.001), (BF16, 0.001)])
@pytest.mark.parametrize("weights", [PAPER, UNEVEN])
def test_attention_in_place_of_a_map_gives_the_labels_of_float64(weights, dtype, allowed):
    """Also of columns whose mean is a millionth of the others'; a column of zeros stays one."""
    changed = patches = 0
    for seed in range(8):
        some = block(seed, 21, 19, 21, width=40, dtype=dtype)
        columns = head_mean_attention(some.cross_q, some.cross_k, width=24)
        columns[..., 3] *= 1e-6
        exact = exact_propagation(exact_mean(some.q, some.k, some.scale), columns, weights)[..., :21]
        found = operator_of(FlashAttention, SelfHeads(some.q, some.k, some.scale)).propagate(columns, weights)
        assert not found[..., 21:].any()
        changed += int((labels(found[..., :21]) != labels(exact)).sum())
        patches += found.shape[1]
    assert patches > 3000 and changed <= allowed * patches


def test_a_thousandth_changes_labels_so_the_cases_can_tell():
    some = block(0, 21, 19, 21, width=40)
    maps = (exact_mean(some.q, some.k, some.scale), exact_mean(some.cross_q, some.cross_k, some.scale))
    exact = exact_propagation(*maps, PAPER)
    noise = torch.rand(exact.shape, generator=torch.Generator().manual_seed(0))
    assert (labels(exact * (1 + 1e-3 * noise)) != labels(exact)).double().mean() > 0.05
