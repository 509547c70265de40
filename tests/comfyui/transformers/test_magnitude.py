"""Magnitude mode: models that cannot be observed are guided patch by patch, and say why."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scfg_core import Note, Settings
from scfg_core.hosts.comfyui import guide

from ...core import oracle
from .. import host
from ..expected import Guided
from .expected import CFG, sample

WIDTH = 16


class Unknown(nn.Module):
    """A model of no family, called as the host calls every model; it takes images and videos."""

    def __init__(self, dtype: torch.dtype | None = None, **_: Any) -> None:
        super().__init__()
        self.dtype = dtype
        self.mix = nn.Conv2d(4, 4, 3, padding=1)
        self.word = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None, **_: Any) -> Tensor:
        assert context is not None
        frames = x if x.ndim == 4 else x.movedim(2, 1).flatten(0, 1)
        mixed = torch.tanh(self.mix(frames))
        if x.ndim == 5:
            mixed = mixed.unflatten(0, (x.shape[0], x.shape[2])).movedim(1, 2)
        word = self.word(context.mean(dim=1))
        return mixed * (1 + word.reshape(*word.shape, *[1] * (x.ndim - 2)))


def by_magnitude(model: Any, settings: Settings | None = None) -> Guided:
    guided = Guided()
    guided.model, guided.trace = guide(model, settings or Settings(), listeners=(guided,), by_magnitude=True)
    return guided


def prompts() -> list[list]:
    texts = [torch.randn(1, 7, WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    return [host.conditioning(text) for text in texts]


def sampled(guided: Guided, latent: dict[str, Tensor]) -> list[dict]:
    """The arguments of every CFG of a run."""
    seen: list[dict] = []
    model = guided.model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: (seen.append(dict(args)), args["denoised"])[1])
    sample(model, *prompts(), latent)
    return seen


def expected_ratio(delta: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """The ratio map of one image (C, H, W) or video (C, T, H, W): (H, W) or (T, H, W), loops and float64."""
    frames = delta if delta.ndim == 4 else delta[:, None]
    eta = np.sqrt((frames.astype(np.float64) ** 2).sum(axis=0))
    ratio = np.empty(eta.shape)
    _, height, width = eta.shape
    rows, columns = -(-height // 4), -(-width // 4)
    for frame in range(len(eta)):
        patch = [[(y * rows // height, x * columns // width) for x in range(width)] for y in range(height)]
        for place in {place for line in patch for place in line}:
            mine = np.array([[cell == place for cell in line] for line in patch])
            ratio[frame][mine] = eta.mean() / eta[frame][mine].mean()
        ratio[frame] = np.clip(ratio[frame], 0.8, 3.0)
    ratio = np.minimum(ratio, max(1, 15 / CFG))
    ratio = np.stack([oracle.smooth(frame) for frame in ratio])
    ratio = 1 + strength * (ratio / ratio.mean() - 1)
    return ratio if delta.ndim == 4 else ratio[0]


@pytest.mark.parametrize("shape", [(24, 40), (18, 27), (3, 16, 12)], ids=["image", "odd", "video"])
def test_magnitude_brings_every_patch_to_the_mean_of_the_image(shape):
    guided = by_magnitude(host.wrapped(Unknown), Settings(strength=0.7))
    seen = sampled(guided, {"samples": torch.zeros(2, 4, *shape)})
    assert len(seen) == len(guided.run.evaluations) == 3
    for args, recorded in zip(seen, guided.run.evaluations, strict=True):
        cond, uncond, denoised = (
            args[key].double().numpy() for key in ("cond_denoised", "uncond_denoised", "denoised")
        )
        for image in range(2):
            ratio = expected_ratio(cond[image] - uncond[image], 0.7)
            assert np.ptp(ratio) > 0.02
            prediction = uncond[image] + CFG * ratio * (cond[image] - uncond[image])
            np.testing.assert_allclose(denoised[image], prediction, rtol=1e-4, atol=1e-5 * np.abs(prediction).max())
            rows = ratio.reshape(-1, ratio.shape[-1])
            shown = oracle.patch_weight(rows, recorded.labels.shape[1:])
            np.testing.assert_allclose(recorded.ratio[image].numpy(), shown, rtol=1e-4)
    assert guided.line.startswith("S-CFG active: by the magnitude of the guidance")
    assert Note.UNKNOWN_MODEL.text in guided.line


def test_without_magnitude_an_unknown_model_is_left_as_it_is():
    model = host.wrapped(Unknown)
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    plain = sample(model, *prompts(), latent)
    guided = Guided()
    guided.model, guided.trace = guide(model, Settings(), listeners=(guided,))
    assert torch.equal(sample(guided.model, *prompts(), latent), plain)
    assert guided.line == f"S-CFG inactive: {Note.UNKNOWN_MODEL.text}"


def test_magnitude_at_strength_0_and_at_cfg_1_is_stock():
    model, latent = host.wrapped(Unknown), {"samples": torch.zeros(1, 4, 16, 16)}
    idle = by_magnitude(model, Settings(strength=0.0))
    assert torch.equal(sample(idle.model, *prompts(), latent), sample(model, *prompts(), latent))
    one = by_magnitude(model)
    stock = sample(model, *prompts(), latent, cfg=1.0)
    assert torch.equal(sample(one.model, *prompts(), latent, cfg=1.0), stock)
    assert one.line.startswith("S-CFG inactive")


def test_magnitude_acts_where_another_node_tiles_the_image():
    from ..nodes import tiled

    model = host.sd15()
    text = [host.conditioning(host.tokens(seed)) for seed in (1, 2)]
    guided = by_magnitude(tiled(model))
    image = sample(guided.model, *text, host.latent(16, 24))
    assert not torch.equal(image, sample(tiled(model), *text, host.latent(16, 24)))
    assert "by the magnitude of the guidance" in guided.line and Note.TILED.text in guided.line


def test_a_model_that_can_be_observed_does_not_use_magnitude():
    model = host.sd15()
    text = [host.conditioning(host.tokens(seed)) for seed in (1, 2)]
    guided, usual = by_magnitude(model), Guided()
    usual.model, usual.trace = guide(model, Settings(), listeners=(usual,))
    images = [sample(each.model, *text, host.latent(16, 24)) for each in (guided, usual)]
    assert torch.equal(*images)
    assert "magnitude" not in guided.line


def test_the_views_and_the_live_panel_show_magnitude(pack):
    import importlib

    guided = by_magnitude(host.wrapped(Unknown))
    sampled(guided, {"samples": torch.zeros(1, 4, 24, 40)})
    run, name = guided.run, pack.__name__
    frame = importlib.import_module(f"{name}.nodes.frames").frame_of(run, run.evaluations[-1])
    assert frame["grid"] == [6, 10] and [word["text"] for word in frame["words"]] == ["all patches"]
    views = importlib.import_module(f"{name}.views")
    for drawn in (
        views.scale_map(run.evaluations[-1], image=0),
        views.curves(run, image=0),
        views.segmentation(run, index=2, image=0),
    ):
        assert drawn.ndim == 3 and len(np.unique(drawn)) > 8
