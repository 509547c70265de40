"""The run of a video in nodes: one mask per frame, as large as that of an image; frames behind their regions."""

import importlib

import pytest
import torch
from torch import Tensor

from .expected import sample
from .models import FAMILIES
from .test_words import PROMPT, encoded

NAME, IMAGES, FRAMES, H, W = "anima", 2, 3, 10, 14
CELL = 8
WORDS = ("fox", "hippopotamus")


@pytest.fixture(scope="module")
def record(patcher, pack):
    """A run of two videos of three frames, by the pack that its nodes come from."""
    core = importlib.import_module(f"{pack.__name__}.scfg_core")
    collection = importlib.import_module(f"{pack.__name__}.scfg_core.run.collection")
    hosted = importlib.import_module(f"{pack.__name__}.scfg_core.hosts.comfyui")
    watched, _ = hosted.observe(patcher(NAME), collection.Collection(soft_maps=True))
    model, trace = hosted.guide(watched, core.Settings(min_region=0.0))
    texts = [encoded(NAME, PROMPT), encoded(NAME, "blurry", seed=2)]
    sample(model, *texts, FAMILIES[NAME].latent(H, W, IMAGES, FRAMES))
    (run,) = trace.runs()
    return run


@pytest.fixture(scope="module")
def mask_of(pack, record):
    made = importlib.import_module(f"{pack.__name__}.nodes.token_mask").token_mask

    def mask_of(mode: str, over: str = "average of all steps", feather: float = 0, image: Tensor | None = None):
        return made(record, ", ".join(WORDS), mode, over, -1, feather, image, "word")

    return mask_of


@pytest.mark.parametrize("over", ["average of all steps", "one step"])
@pytest.mark.parametrize("mode", ["hard", "soft", "stretched"])
def test_a_video_has_one_mask_per_frame(mask_of, mode, over):
    masks = mask_of(mode, over)
    assert masks.shape == (IMAGES * FRAMES, H * CELL, W * CELL)
    assert not torch.equal(masks[0], masks[1]), "nothing to see: two frames have one mask"
    image = torch.zeros(1, 30, 50, 3)
    assert mask_of(mode, over, image=image).shape == (IMAGES * FRAMES, 30, 50)


def labels_of_words(record) -> list[int]:
    named = record.prompts[0].words_with_labels()
    return [label for text, labels in named if text in WORDS for label in labels]


def test_the_frames_of_an_image_come_one_after_the_other(mask_of, record):
    labels = record.evaluations[-1].labels
    owned = torch.isin(labels, torch.tensor(labels_of_words(record), dtype=labels.dtype)).float()
    assert owned.any(), "nothing to see: the words own nothing"
    found = mask_of("hard", "one step")[:, :: 2 * CELL, :: 2 * CELL]
    assert torch.equal(found, torch.cat([frame for image in owned for frame in image.split(H // 2)]).view_as(found))


def test_nothing_of_a_frame_reaches_the_next_one(mask_of, record, monkeypatch):
    """The words have all of the second frame and nothing of the others."""
    ((labels, values),) = record.token_sums.items()
    values, patches = torch.zeros_like(values), (H // 2) * (W // 2)
    values[..., 0] = 1.0
    values[:, patches : 2 * patches, [labels.index(label) for label in labels_of_words(record)]] = 9.0
    monkeypatch.setattr(record, "token_sums", {labels: values})
    for mode in ("hard", "soft", "stretched"):
        for feather in (0, 24):
            means = mask_of(mode, feather=feather).view(IMAGES, FRAMES, -1)
            assert means[:, [0, 2]].max() == 0 and means[:, 1].min() > 0.9


def test_the_preview_has_the_frames_where_the_regions_have_them(record):
    last = record.evaluations[-1]
    assert last.grid.frames == FRAMES
    assert last.preview.shape == (IMAGES, 3, FRAMES * H, W)
    frames = last.preview.split(H, dim=2)
    assert not torch.equal(frames[0], frames[1]), "nothing to see: two frames are one"


@pytest.mark.parametrize("shown", [FRAMES, 4 * FRAMES - 3], ids=["as in the latent", "as decoded"])
def test_the_frames_of_an_image_lie_behind_their_regions(pack, record, monkeypatch, shown):
    node = importlib.import_module(f"{pack.__name__}.nodes.segmentation")
    bases = []
    monkeypatch.setattr(node, "segmentation", lambda run, base, **_: bases.append(base) or base)
    monkeypatch.setattr(node, "view", lambda cls, run, draw: draw())
    video = torch.arange(IMAGES * shown)[:, None, None, None].expand(-1, 8, 8, 3) / 255
    node.SCFGSegmentation.execute(record, node.ONE, -1, 1, node.NOTHING, image=video)
    (base,) = bases
    assert base.shape == (FRAMES * 8, 8, 3)
    step = shown // FRAMES
    assert base[::8, 0, 0].tolist() == [shown, shown + step, shown + 2 * step]
