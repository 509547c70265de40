"""Tiny checkpoints and a COCO of a few pictures, made once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from .tiny import save_clip, save_pipeline

PICTURES = 7


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """As many as each of several processes has: other numbers of threads round differently."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def stable_diffusion(tmp_path_factory) -> Path:
    return save_pipeline("SD 1.5", tmp_path_factory.mktemp("stable-diffusion"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def coco(tmp_path_factory) -> Path:
    """captions.json, and the folder `images` with the pictures that it describes."""
    folder = tmp_path_factory.mktemp("coco")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    images, annotations = [], []
    for index in range(PICTURES):
        name = f"COCO_{index:012d}.png"
        Image.fromarray(rng.integers(256, size=(12 + index, 20, 3), dtype=np.uint8)).save(folder / "images" / name)
        images.append({"id": 100 + index, "file_name": name})
        for number in (1, 0):
            caption = f"caption {number} of picture {index}\n"
            annotations.append({"id": 10 * index + number, "image_id": 100 + index, "caption": caption})
    images.append({"id": 999, "file_name": "without a caption.png"})
    content = {"images": images, "annotations": annotations}
    (folder / "captions.json").write_text(json.dumps(content))
    return folder
