"""The Triton kernels as launched, compiled for cards that are not here: they fit, and keep to registers."""

import re
import subprocess

import pytest
import torch

from scfg_core.collect import fused

triton = pytest.importorskip("triton", reason="no Triton on this system")
SHARED = {86: 99 * 1024, 90: 227 * 1024, 120: 99 * 1024}
"""Bytes of shared memory that a block may take: GeForce 30, H100, GeForce 50."""
TYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32", torch.uint8: "u8"}
N, HEADS, KEYS, COLUMNS = 4096, 2, 77, 80
MOST_SPILLED = 16
"""Bytes that a thread may spill, whatever the version of Triton."""
MOST_SPILLED_STREAMING = 256


def launches(monkeypatch, dtype, width):
    """(kernel, arguments, sizes) of every operation, as `fused` launches it."""
    seen = []
    monkeypatch.setattr(
        fused, "_launch", lambda name, grid, *given, **sizes: seen.append((name, list(given), sizes))
    )
    q, k = (torch.zeros(1, HEADS, length, width, dtype=dtype) for length in (N, KEYS))
    lse, columns = torch.zeros(1, HEADS, N), torch.zeros(1, N, COLUMNS)
    parts = fused.split(columns)
    if dtype != torch.float32:
        fused.text_maps(q, k, 1.0, None, COLUMNS)
    fused.row_lse(q, q, 1.0, None)
    fused.head_mean(q, k, lse, 1.0, None, COLUMNS)
    fused.stream_map(q, q, lse, 1.0, None, parts, columns, 1.0, 0.5, False, 0, 1)
    for kept, large in ((1, False), (2, False), (1, True)):
        maps = torch.zeros((), dtype=torch.float16).expand(1, kept, N, N)
        fused.apply_map(maps, parts, columns, 1.0, 0.5, False, 0, 1, large)
    for half in (False, True):
        fused.split_mean(q, q, lse, 1.0, None, half)
    return seen


def compiled(name, given, sizes, capability):
    """Bytes of shared memory, and bytes that a thread spills."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from scfg_core.collect import kernels

    kernel = getattr(kernels, name)
    options = {key: sizes[key] for key in ("num_warps", "num_stages") if key in sizes}
    constants = {key: value for key, value in sizes.items() if key not in options}
    types, aligned = {}, {}
    for place, (argument, value) in enumerate(zip(kernel.arg_names, given, strict=False)):
        if isinstance(value, torch.Tensor):
            types[argument], aligned[(place,)] = f"*{TYPES[value.dtype]}", [["tt.divisibility", 16]]
        else:
            types[argument] = "fp32" if isinstance(value, float) else "i32"
            if types[argument] == "i32" and value % 16 == 0:
                aligned[(place,)] = [["tt.divisibility", 16]]
    types |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(
        fn=kernel, signature={key: types[key] for key in kernel.arg_names}, constexprs=constants, attrs=aligned
    )
    done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    return done.metadata.shared, spilled(done.asm["ptx"], capability)


def spilled(ptx, capability):
    from triton.backends.nvidia.compiler import get_ptxas

    (architecture,) = re.findall(r"^\.target (\w+)", ptx, re.MULTILINE)
    command = [
        get_ptxas(capability).path,
        "--verbose",
        "--gpu-name",
        architecture,
        "--output-file",
        "/dev/null",
        "-",
    ]
    said = subprocess.run(command, input=ptx, capture_output=True, text=True, check=True).stderr
    return max(map(int, re.findall(r"(\d+) bytes spill stores", said)))


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize(
    ("dtype", "width"),
    [(torch.float16, 64), (torch.bfloat16, 128), (torch.float16, 160), (torch.float32, 64), (torch.float32, 128)],
)
def test_it_fits_the_card_and_spills_little(monkeypatch, capability, dtype, width):
    for name, given, sizes in launches(monkeypatch, dtype, width):
        shared, spills = compiled(name, given, sizes, capability)
        assert shared <= SHARED[capability], name
        assert spills <= (MOST_SPILLED_STREAMING if name == "_stream_kernel" else MOST_SPILLED), name
