"""Measure the Triton kernels in Triton's interpreter, in a process of its own; prints {case: {measure: value}}.

`test_kernels` starts it with TRITON_INTERPRET=1, which has to be there before anything imports Triton.
"""

import json
from itertools import product
from unittest.mock import patch

import torch
from qk import block, error, exact_mean, exact_propagation, joint_keys, labels

from scfg_core.collect import fused, tiles
from scfg_core.collect.backend import agrees
from scfg_core.collect.operators import SelfHeads

PAPER = (0, 0.25, 0.25, 0.25, 0.25)
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def maps_case(width, dtype):
    """S and C of odd sizes, two images, views of (b, n, heads·d)."""
    some = block(width, 7, 11, 21, batch=2, heads=3, width=width, dtype=dtype)
    lse = fused.row_lse(some.q, some.k, some.scale, None)
    exact = exact_mean(some.q, some.k, some.scale)
    full, half = (
        fused.split_mean(some.q, some.k, lse, some.scale, None, half).float().sum(1) / fused.map_unit(77)
        for half in (False, True)
    )
    cross = tiles.cross_maps(some.cross_q, some.cross_k, some.scale, None, 32)
    exact_cross = exact_mean(some.cross_q, some.cross_k, some.scale)
    return {
        "S fp32": error(full, exact),
        "S fp16": error(half, exact),
        "C": error(cross[..., :21], exact_cross),
        "beyond": float(cross[..., 21:].abs().max()),
    }


def whole_case(dtype, keeping):
    """Sizes that tiles divide: 256 patches, and keys that are left out of C."""
    some = block(8, 16, 16, 32, batch=2, heads=2, width=64, dtype=dtype)
    kept = torch.ones(2, 32, dtype=torch.bool)
    kept[1, 20:] = False
    exact = exact_mean(some.q, some.k, some.scale)
    exact_cross = exact_mean(some.cross_q, some.cross_k, some.scale, kept)
    cross = tiles.cross_maps(some.cross_q, some.cross_k, some.scale, kept, 32)
    heads = SelfHeads(some.q, some.k, some.scale)
    ((_, operator),) = tiles.operators(heads, 2, tiles.Narrow(), keeping)
    found = operator.propagate(exact_cross.float(), PAPER)
    expected = exact_propagation(exact, exact_cross, PAPER)
    return {"C": error(cross, exact_cross), "propagated": error(found, expected)}


def labels_case(dtype, keeping):
    """Labels of 5 grids of 17×19 against float64, by every way of keeping S."""
    changed = patches = 0
    seen: set[int] = set()
    for seed in range(5):
        some = block(seed, 17, 19, 21, width=40, dtype=dtype)
        cross = tiles.cross_maps(some.cross_q, some.cross_k, some.scale, None, 32)
        heads = SelfHeads(some.q, some.k, some.scale)
        ((_, operator),) = tiles.operators(heads, 1, tiles.Narrow(), keeping)
        found = operator.propagate(cross, PAPER)[..., :21]
        exact = exact_propagation(
            exact_mean(some.q, some.k, some.scale), exact_mean(some.cross_q, some.cross_k, some.scale), PAPER
        )
        changed += int((labels(found) != labels(exact)).sum())
        patches += found.shape[1]
        seen.update(labels(exact).flatten().tolist())
    return {"changed": changed / patches, "patches": patches, "labels": len(seen)}


def joint_case(normalise, keeping):
    """Text and image keys under one softmax, some text keys left out; rows of S divided by their sums or not."""
    some = block(5, 5, 9, 13, batch=2, width=64, dtype=torch.float16)
    text, image = slice(0, 13), slice(13, 58)
    k = joint_keys(some)
    kept = torch.ones(2, 58, dtype=torch.bool)
    kept[1, 9:13] = False
    exact = exact_mean(some.q, k, some.scale, kept)
    cross, maps = exact[..., text], exact[..., image]
    if normalise:
        maps = maps / maps.sum(-1, keepdim=True)
    heads = SelfHeads(some.q, k, some.scale, image, kept, normalise)
    found = []
    for _, operator in tiles.operators(heads, 1, tiles.Narrow(), keeping):
        columns = operator.text_columns(text)
        wide = torch.nn.functional.pad(columns, (0, 3))
        found.append(torch.cat((columns, operator.propagate(wide, (0.1, 0.2, 0.7))[..., :13]), -1))
    exact = torch.cat((cross, exact_propagation(maps, cross, (0.1, 0.2, 0.7))), -1)
    return {"C and propagated": error(torch.cat(found), exact)}


def narrow_case(keeping):
    """Of narrow images only the first columns are computed; the others have them all, 150 wide."""
    some = block(6, 5, 9, 150, batch=3, width=40, dtype=torch.float32)
    cross = tiles.cross_maps(some.cross_q, some.cross_k, some.scale, None, 160)
    heads = SelfHeads(some.q, some.k, some.scale)
    exact = exact_propagation(exact_mean(some.q, some.k, some.scale), cross, PAPER)
    parts = [
        operator.propagate(cross[images], PAPER)
        for images, operator in tiles.operators(heads, 2, tiles.Narrow(1, 2), keeping)
    ]
    found = torch.cat(parts)
    return {
        "wide": error(found[[0, 2]], exact[[0, 2]]),
        "narrow": error(found[1, :, : fused.NARROW], exact[1, :, : fused.NARROW]),
    }


def shapes_case():
    """What the operations give for meta tensors has the shapes and dtypes of what they give for others."""
    some = block(7, 4, 5, 6, width=40, dtype=torch.float16)
    lse = fused.row_lse(some.q, some.k, some.scale, None)
    maps = fused.split_mean(some.q, some.k, lse, some.scale, None, True)
    cross = tiles.cross_maps(some.cross_q, some.cross_k, some.scale, None, 16)
    parts = fused.split(cross)
    calls = [
        (fused.text_maps, (some.cross_q, some.cross_k, some.scale, None, 16)),
        (fused.row_lse, (some.q, some.k, some.scale, None)),
        (fused.head_mean, (some.q, some.k, lse, some.scale, None, 32)),
        (fused.split_mean, (some.q, some.k, lse, some.scale, None, False)),
        (fused.split, (cross,)),
        (fused.apply_map, (maps, parts, cross, 1.0, 0.0, False, 0, 0, False)),
        (fused.apply_map, (maps, parts, cross, 1.0, 0.0, True, 0, 0, True)),
        (fused.stream_map, (some.q, some.k, lse, some.scale, None, parts, cross, 1.0, 0.5, False, 0, 1)),
        (fused.stream_map, (some.q, some.k, lse, some.scale, None, parts, cross, 1.0, 0.5, True, 0, 1)),
    ]
    alike = []
    for operation, args in calls:
        real = operation(*args)
        meta = operation(*(arg.to("meta") if isinstance(arg, torch.Tensor) else arg for arg in args))
        alike.append(real.shape == meta.shape and real.dtype == meta.dtype)
    return {"alike": all(alike)}


def main():
    cases: dict[str, dict[str, float]] = {}
    for name, dtype in DTYPES.items():
        for width in (40, 64, 80, 128, 160):
            cases[f"maps {name} {width}"] = maps_case(width, dtype)
    for name, dtype in DTYPES.items():
        for keeping in ("split", "half", "large"):
            cases[f"whole {name} {keeping}"] = whole_case(dtype, keeping)
    for name, keeping in (("fp32", "split"), ("fp16", "split"), ("fp16", "half"), ("fp16", "none")):
        cases[f"labels {name} {keeping}"] = labels_case(DTYPES[name], keeping)
    for keeping in ("split", "none"):
        cases[f"joint as it is {keeping}"] = joint_case(False, keeping)
        cases[f"joint by the text's share {keeping}"] = joint_case(True, keeping)
        with patch.object(tiles, "FEW_KEYS", 0):
            cases[f"joint by the image's share {keeping}"] = joint_case(True, keeping)
    for keeping in ("split", "none"):
        cases[f"narrow {keeping}"] = narrow_case(keeping)
    cases["shapes"] = shapes_case()
    for keeping, whole in product(("split", "half", "large", "none"), (False, True)):
        agree = agrees(torch.device("cpu"), torch.float16, 64, keeping, whole)
        cases[f"proof {keeping} {whole}"] = {"agrees": agree}
    print(json.dumps(cases))


if __name__ == "__main__":
    with torch.no_grad():
        main()
