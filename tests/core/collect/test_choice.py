"""Which backend and which operators are chosen, by the device's kind, its total memory and the sizes of a call."""

import contextlib
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch

import scfg_core.collect as collect
from scfg_core.collect import backend as backends
from scfg_core.collect import fused, tiles
from scfg_core.collect.backend import PyTorch, Triton, agrees, backend_for
from scfg_core.collect.budget import GIB, MIB, MemoryBudget
from scfg_core.collect.operators import FlashAttention, RowBlocks, SelfHeads, StoredMap

CUDA = torch.device("cuda", 0)


def heads_of(n, images=2, device="meta", dtype=torch.float16):
    q = torch.empty(images, 10, n, 64, device=device, dtype=dtype)
    return SelfHeads(q, q, 0.125)


@pytest.mark.parametrize(
    ("kind", "total", "limit"),
    [
        ("cpu", 64 * GIB, 256 * MIB),
        ("cuda", None, 256 * MIB),
        ("cuda", 2 * GIB, 256 * MIB),
        ("cuda", 8 * GIB, 8 * GIB // 12),
        ("cuda", 12 * GIB, GIB),
        ("cuda", 24 * GIB, 2 * GIB),
        ("cuda", 80 * GIB, 2 * GIB),
        ("mps", 24 * GIB, 2 * GIB),
    ],
)
def test_budget_is_a_rule_of_kind_and_total_memory(kind, total, limit):
    budget = MemoryBudget.for_device(kind, total)
    assert budget.limit == limit
    assert MemoryBudget.for_device(kind, total, 16 * MIB).limit == 16 * MIB


@pytest.mark.parametrize("total", [12 * GIB, 24 * GIB])
@pytest.mark.parametrize("images", [1, 2, 4])
@pytest.mark.parametrize("side", [32, 64, 96, 128])
def test_triton_keeps_a_map_of_every_size_on_a_card_of_12_gib(side, images, total):
    """SDXL at 64² to 256² latents: fp32 up to 64², fp16 above; batches take no more than the budget."""
    n, budget = side * side, MemoryBudget.for_device("cuda", total)
    size = n * n * (2 if n > 4096 else 4)
    together = budget.images_at_once(2 * images, size)
    assert together >= 1 and together * size <= budget.limit


def test_8_gib_hold_the_map_of_a_2048_image_and_a_small_budget_streams():
    size = 2 * (128 * 128) ** 2
    assert MemoryBudget.for_device("cuda", 8 * GIB).images_at_once(2, size) == 1
    assert MemoryBudget.for_device("cuda", 8 * GIB, 256 * MIB).images_at_once(2, size) == 0


@pytest.mark.parametrize("total", [8 * GIB, 12 * GIB, 24 * GIB])
@pytest.mark.parametrize("side", [64, 96, 128])
def test_joint_layers_of_many_patches_attend_on_cuda_unless_rows_stay_as_they_are(side, total):
    budget, n, text = MemoryBudget.for_device("cuda", total), side * side, 60
    q, k = (torch.empty(1, 24, length, 128, device="meta", dtype=torch.bfloat16) for length in (n, text + n))
    kept = torch.ones(1, text + n, dtype=torch.bool, device="meta")
    for normalise, mask in ((True, None), (True, kept), (False, None)):
        heads = SelfHeads(q, k, 0.1, slice(text, text + n), mask, normalise)
        ((_, _, operator),) = PyTorch().operators(heads, [64], 64, budget)
        assert isinstance(operator, FlashAttention) == normalise


@pytest.mark.parametrize("total", [8 * GIB, 12 * GIB, 24 * GIB])
@pytest.mark.parametrize("images", [2, 4, 8])
@pytest.mark.parametrize(
    ("side", "kind"),
    [(16, StoredMap), (32, StoredMap), (64, FlashAttention), (96, FlashAttention), (128, FlashAttention)],
)
def test_pytorch_on_cuda_stores_small_maps_and_attends_for_large_ones(side, kind, images, total):
    budget, heads = MemoryBudget.for_device("cuda", total), heads_of(side * side, images)
    widths = [77] * (images // 2) + [2] * (images // 2)
    found = list(PyTorch().operators(heads, widths, 80, budget))
    assert all(isinstance(operator, kind) for *_, operator in found)
    small = kind is StoredMap  # then one product for all of them
    assert {width for _, width, _ in found} == ({80} if small else {80, 8})
    covered = [image for part, *_ in found for image in range(part.start, part.stop)]
    assert covered == list(range(images))


def test_one_map_is_gone_before_the_next_one_is_made(monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Counted(tiles.StoredTiles):
        def __init__(self, *given):
            super().__init__(*given)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(tiles, "StoredTiles", Counted)
    budget = MemoryBudget.for_device("cuda", 24 * GIB)
    for _images, _width, operator in Triton().operators(heads_of(128 * 128), [77, 2], 80, budget):
        del operator
    assert most == [1, 1]


def test_other_devices_never_take_an_attention_that_may_not_be_there():
    heads = heads_of(64 * 64, device="cpu", dtype=torch.float32)
    for limit, kind in ((None, StoredMap), (MIB, RowBlocks)):
        budget = MemoryBudget.for_device("cpu", None, limit)
        first = next(
            PyTorch().operators(SelfHeads(heads.q[:, :1, :, :8], heads.k[:, :1, :, :8], 1.0), [2, 2], 8, budget)
        )
        assert isinstance(first[2], kind)


@pytest.fixture
def card(monkeypatch):
    """A pretended NVIDIA card, Triton beside it, and what the proof says."""
    state = SimpleNamespace(capability=(8, 6), found=object(), proof=lambda *_: True, proofs=[])

    def agrees(*key):
        state.proofs.append(key)
        return state.proof(*key)

    monkeypatch.setattr(backends.torch.cuda, "get_device_capability", lambda device: state.capability)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: state.found)
    monkeypatch.setattr(backends, "agrees", agrees)
    monkeypatch.setattr(backends, "_keeping", lambda *_: "split")
    monkeypatch.setattr(backends, "_distrusted", False)
    backends._has_triton.cache_clear()
    backends._proved.cache_clear()
    yield state
    backends._has_triton.cache_clear()
    backends._proved.cache_clear()


def chosen(width=64, dtype=torch.float16, device=CUDA, n=4096):
    q = SimpleNamespace(device=device, dtype=dtype, shape=(2, 10, n, width))  # there is no such device to be on
    return backend_for(q, MemoryBudget.for_device("cuda", 12 * GIB)).name


def test_triton_computes_where_it_is_proved_once_for_a_kind_of_layer(card):
    assert [chosen(), chosen(), chosen(160)] == ["triton"] * 3
    assert len(card.proofs) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"found": None},
        {"capability": (7, 5)},
        {"proof": lambda *_: False},
        {"proof": lambda *_: 1 / 0},
    ],
    ids=["not installed", "an old card", "wrong numbers", "does not compile"],
)
def test_pytorch_computes_where_triton_does_not_work(card, change):
    vars(card).update(change)
    assert [chosen(), chosen()] == ["pytorch"] * 2


def test_pytorch_computes_where_the_operators_cannot_be_registered(card, monkeypatch):
    def fails(*_):
        raise ValueError("no such type")

    monkeypatch.setattr(backends.importlib, "import_module", fails)
    assert chosen() == "pytorch"


@pytest.mark.parametrize("kind", ["cpu", "mps", "xpu", "privateuseone"])
def test_other_devices_compute_by_pytorch(card, kind):
    assert chosen(device=torch.device(kind)) == "pytorch" and not card.proofs


def test_small_layers_are_left_to_pytorch_and_ask_for_no_proof(card):
    assert [chosen(n=side * side) for side in (8, 16, 32)] == ["pytorch", "pytorch", "triton"]
    assert len(card.proofs) == 1


def test_triton_is_not_asked_again_once_it_failed(card):
    assert chosen() == "triton"
    backends.distrust(RuntimeError("illegal instruction"))
    assert chosen() == "pytorch"


def test_nothing_imports_triton_unasked():
    code = "import sys, scfg_core; assert not any(name.endswith(('.kernels', '.tiles')) for name in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("keeping", ["split", "half", "large"])
def test_the_proof_runs_the_tiles_that_will_run(monkeypatch, keeping, whole):
    launched = {}
    monkeypatch.setattr(fused, "_launch", lambda name, grid, *given, **sizes: launched.update({name: sizes}))
    agrees(torch.device("cpu"), torch.float16, 64, keeping, whole)  # of numbers that nobody wrote
    bare = whole and keeping != "split"
    assert launched["_head_mean_kernel"]["WHOLE"] == launched["_apply_kernel"]["WHOLE"] == bare
    tile = fused.apply_tile(4096, 32, keeping == "large")
    assert (launched["_apply_kernel"]["BM"], launched["_apply_kernel"]["BN"]) == tile[:2] or not whole
    assert launched["_apply_kernel"]["PARTS"] == (2 if keeping == "split" else 1)


@pytest.mark.parametrize("current", [0, 1])
def test_kernels_are_launched_on_the_device_of_their_tensors(monkeypatch, current):
    now, seen = [current], []

    @contextlib.contextmanager
    def on(device):
        before, now[0] = now[0], device.index
        yield
        now[0] = before

    kernels = SimpleNamespace(_kernel={(1,): lambda *_: seen.append(now[0])})
    monkeypatch.setitem(sys.modules, "scfg_core.collect.kernels", kernels)
    monkeypatch.setattr(collect, "kernels", kernels, raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "device", on)
    fused._launch("_kernel", (1,), SimpleNamespace(device=torch.device("cuda", 1)))
    assert seen == [1] and now == [current]
