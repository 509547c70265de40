"""The Triton kernels against float64, in Triton's interpreter: `interpret` measures, here is what must hold."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

FULL_LABELS, HALF_LABELS = 0.0005, 0.001
"""Part of the labels that S in fp32, and in fp16, may change against float64."""


@pytest.fixture(scope="module")
def measured():
    script, root = Path(__file__).with_name("interpret.py"), Path(__file__).parents[3]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("width", [40, 64, 80, 128, 160])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_maps_of_odd_sizes_are_those_of_float64(measured, dtype, width):
    case = measured[f"maps {dtype} {width}"]
    assert case["S fp32"] <= 5e-6 and case["C"] <= 5e-6
    assert 1e-5 <= case["S fp16"] <= 1e-3, "half a digit of fp16, and not fp32"
    assert case["beyond"] == 0


@pytest.mark.parametrize(("keeping", "most"), [("split", 5e-6), ("half", 1e-3), ("large", 1e-3)])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_maps_that_tiles_divide_are_those_of_float64(measured, dtype, keeping, most):
    case = measured[f"whole {dtype} {keeping}"]
    assert case["C"] <= 5e-6 and case["propagated"] <= most


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("fp32 split", FULL_LABELS),
        ("fp16 split", FULL_LABELS),
        ("fp16 none", FULL_LABELS),
        ("fp16 half", HALF_LABELS),
    ],
)
def test_propagated_labels_are_those_of_float64(measured, name, allowed):
    case = measured[f"labels {name}"]
    assert case["changed"] <= allowed
    assert case["patches"] * HALF_LABELS > 1 and case["labels"] >= 15, "the case itself decides nothing"


@pytest.mark.parametrize("keeping", ["split", "none"])
@pytest.mark.parametrize("rows", ["as it is", "by the text's share", "by the image's share"])
def test_a_joint_softmax_gives_both_maps_without_the_keys_left_out(measured, rows, keeping):
    assert measured[f"joint {rows} {keeping}"]["C and propagated"] <= 1e-4


@pytest.mark.parametrize("keeping", ["split", "none"])
def test_narrow_images_have_their_first_columns_and_wide_ones_all(measured, keeping):
    case = measured[f"narrow {keeping}"]
    assert case["wide"] <= 1e-4 and case["narrow"] <= 1e-4


def test_meta_tensors_have_the_shapes_of_real_ones(measured):
    assert measured["shapes"]["alike"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("keeping", ["split", "half", "large", "none"])
def test_the_proof_holds_where_the_kernels_work(measured, keeping, whole):
    assert measured[f"proof {keeping} {whole}"]["agrees"]
