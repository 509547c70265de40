"""Networks that look at images: CLIP (text alignment) and Inception (Fréchet distance), from local files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor
from torchmetrics.multimodal.clip_score import CLIPScore
from tqdm import tqdm
from transformers import CLIPModel, CLIPProcessor

from scfg_core import ScfgError

from .experiment import Plan
from .frechet import Extractor
from .prompts import Prompt
from .store import Pixels, Store

SIDE = 256
"""Images are compared at this size, as the paper does: real ones are cut square from their centre."""


def clip_scorer(folder: Path, device: Any) -> CLIPScore:
    """CLIP score (arXiv 2104.08718), 0…100, from a local folder in the format of transformers."""

    def load() -> tuple[Any, Any]:
        model = _Clip.from_pretrained(folder, local_files_only=True)
        return model, CLIPProcessor.from_pretrained(folder, local_files_only=True)  # nosec B615

    return CLIPScore(load).to(device)


class _Clip(CLIPModel):
    """CLIP whose features are tensors, as torchmetrics expects; transformers 5 wraps them."""

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        return _tensor(super().get_image_features(*args, **kwargs))

    def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
        return _tensor(super().get_text_features(*args, **kwargs))


def _tensor(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output


def score_missing(store: Store, plan: Plan, scorer: CLIPScore, count: int, rank: int = 0, world: int = 1) -> None:
    """Give every image of the first `count` prompts its CLIP score, where the store lacks it."""
    store.read()
    captions = store.captions()
    keys = [
        (arm, scale, index)
        for arm, scale in plan.cells(plan.arms)
        for index in range(min(count, plan.count(arm)))
        if index % world == rank and "clip" not in store.found[arm, scale, index]
    ]
    for arm, scale, index in tqdm(keys, desc="CLIP score", unit="image", disable=rank > 0 or not keys):
        image = torch.from_numpy(store.image(arm, scale, index).copy())
        with torch.no_grad():
            value = scorer(rearrange(image, "h w c -> c h w"), captions[index])
        scorer.reset()
        store.annotate([{"arm": arm, "scale": scale, "index": index, "clip": float(value)}])


def inception(weights: Path, device: Any) -> Extractor:
    """The 2048 features of FID's Inception network, from a file of weights as torch-fidelity publishes it."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    network = FeatureExtractorInceptionV3("fid", ["2048"], feature_extractor_weights_path=str(weights)).to(device)

    def features(images: Sequence[Pixels]) -> Tensor:
        batch = torch.from_numpy(np.stack([at_side(image) for image in images])).to(device)
        with torch.no_grad():
            return network(rearrange(batch, "n h w c -> n c h w"))[0]

    return features


def at_side(image: Pixels) -> Pixels:
    """An image (h, w, 3) at 256×256: cut square from its centre, bicubic with antialiasing."""
    if image.shape[:2] == (SIDE, SIDE):
        return image
    return np.asarray(ImageOps.fit(Image.fromarray(image), (SIDE, SIDE), Image.Resampling.BICUBIC))


def image_files(folder: Path, prompts: Sequence[Prompt]) -> list[Path]:
    """Files of the images that the captions describe. Raises `ScfgError` where one is not named or not there."""
    files: list[Path] = []
    for prompt in prompts:
        file = None if prompt.image is None else folder / prompt.image
        if file is None or not file.is_file():
            raise ScfgError(
                f"expected {prompt.image or 'captions of named images'} in {folder}, got none: "
                "give captions in COCO's format with --captions, and the folder of their images with --images"
            )
        files.append(file)
    return files


def real_images(files: Sequence[Path]) -> Iterator[Pixels]:
    """Them, (h, w, 3) uint8."""
    for file in files:
        yield np.asarray(Image.open(file).convert("RGB"))
