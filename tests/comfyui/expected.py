"""What S-CFG should have done in a run, by the oracle, from what a `Probe` saw; and the check that it did."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfg_core import Settings
from scfg_core.hosts.comfyui import guide, observe
from scfg_core.run.evaluation import Evaluation
from scfg_core.run.record import Run
from scfg_core.run.session import Collection
from scfg_core.run.trace import Trace

from ..core import oracle
from . import host
from .probe import Area, Probe


@dataclass(frozen=True)
class Prompt:
    """A prompt entry as a test knows it.

    text    (1 or images, L, width) tokens.
    area    (h, w, y, x) in latent cells; None = the whole latent.
    weight  host weight over the whole latent (H, W); None = the only entry, everywhere.
    """

    text: Tensor
    area: Area | None = None
    weight: np.ndarray | None = None

    @property
    def starts(self) -> tuple[int, ...]:
        length = self.text.shape[1]
        return tuple(range(0, length, 77)) if length % 77 == 0 else (0,)


@dataclass
class Guided:
    """A model with S-CFG on it; it listens to its runs, as a node does."""

    model: Any = None
    trace: Trace = field(default_factory=Trace)
    lines: list[str] = field(default_factory=list)
    heard: int = 0

    def evaluated(self, run: Run, evaluation: Evaluation) -> None:
        self.heard += 1

    def finished(self, run: Run, status: str) -> None:
        self.lines.append(status)

    @property
    def run(self) -> Run:
        return self.trace.runs()[-1]

    @property
    def line(self) -> str:
        return self.lines[-1]


def scfg(model: Any, settings: Settings | None = None, **more: Any) -> Guided:
    """S-CFG that guides."""
    guided = Guided()
    guided.model, guided.trace = guide(model, settings or Settings(), listeners=(guided,), **more)
    return guided


def watching(model: Any, collection: Collection | None = None) -> Guided:
    """S-CFG that only watches."""
    watched = Guided()
    watched.model, watched.trace = observe(model, collection or Collection(), listeners=(watched,))
    return watched


def check(
    probe: Probe,
    guided: Guided,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    *,
    settings: Settings | None = None,
    layers: tuple[str, ...] = host.SD15_LAYERS,
    evaluations: Sequence[int] | None = None,
    labels_from: Callable[[int], int] = lambda index: index,
    first_label: int = 0,
    tolerance: float = 1e-4,
) -> None:
    """Labels, foreground, ratio and the guided prediction of every evaluation are those of the oracle.

    labels_from  the evaluation whose maps serve at a given one.
    first_label  of `positive`: how many tokens the entries before it have, which are silent.
    tolerance    of the prediction, relative to its largest value.
    """
    settings = settings or Settings()
    assert "S-CFG active" in guided.line, guided.line
    assert len(guided.run.evaluations) == len(probe.evaluations) > 0
    assert [each.index for each in guided.run.evaluations] == list(range(len(probe.evaluations)))
    for index in evaluations or range(len(probe.evaluations)):
        args, recorded = probe.evaluations[index].args, guided.run.evaluations[index]
        text, empty = (_numpy(args[name]) for name in ("cond_denoised", "uncond_denoised"))
        for image in range(len(text)):
            wanted = segmented(
                probe, labels_from(index), positive, negative, image, settings, layers, text.shape[2:]
            )
            labels, foreground = _numpy(recorded.labels[image]), recorded.foreground[image].numpy()
            assert labels.shape == wanted.labels.shape
            assert wanted.tied.sum() <= max(1, 0.02 * wanted.tied.size), "too many ties for a test"
            assert np.array_equal(labels[~wanted.tied], wanted.labels[~wanted.tied] + first_label)
            assert np.array_equal(foreground[~wanted.fg_tied], wanted.foreground[~wanted.fg_tied])
            ratio = oracle.ratio_map(text[image] - empty[image], labels, foreground, settings, args["cond_scale"])
            assert np.ptp(ratio) > 0.01, "nothing to see: the ratio is the same everywhere"
            np.testing.assert_allclose(
                recorded.ratio[image].numpy(), oracle.patch_weight(ratio, labels.shape), rtol=1e-4
            )
            prediction = oracle.combine(text[image], empty[image], ratio, args["cond_scale"])
            difference = np.abs(_numpy(args["denoised"][image]) - prediction).max()
            assert difference < tolerance * np.abs(prediction).max()


def segmented(
    probe: Probe,
    index: int,
    positive: Sequence[Prompt],
    negative: Sequence[Prompt],
    image: int,
    settings: Settings,
    layers: tuple[str, ...],
    latent: tuple[int, int],
) -> oracle.Segmented:
    """Labels and foreground of one image at one evaluation, in float64."""

    def entry(prompt: Prompt, columns: Callable[[np.ndarray], np.ndarray], epsilon: float):
        maps = probe.layer_maps(index, layers, prompt.text, image, prompt.area)
        values, grid = oracle.fuse(maps, settings, columns, epsilon)
        area = None if prompt.area is None else (prompt.area[2], prompt.area[3], prompt.area[0], prompt.area[1])
        return values, grid, area, prompt.weight

    cond = [entry(each, lambda cross, s=each.starts: oracle.fold_starts(cross, s), 1e-8) for each in positive]
    uncond = [entry(each, lambda cross, s=each.starts: oracle.start_and_rest(cross, s), 0.0) for each in negative]
    return oracle.segment_entries(cond, uncond, settings, latent)


def host_weight(
    latent: tuple[int, int],
    area: Area | None = None,
    strength: float = 1.0,
    mask: np.ndarray | None = None,
    mask_strength: float = 1.0,
) -> np.ndarray:
    """The host's weight of an entry: 1, faded over 8 cells at an area's inner borders; or a mask."""
    weight = np.zeros(latent)
    h, w, y, x = area or (*latent, 0, 0)
    piece = np.ones((h, w)) if mask is None else mask[y : y + h, x : x + w] * mask_strength
    if area is not None and mask is None:
        for axis, (start, size, whole) in enumerate(((y, h, latent[0]), (x, w, latent[1]))):
            ramp = min(8, size // 4)
            along = np.ones(size)
            for step in range(ramp):
                along[step] *= (step + 1) / ramp if start else 1
                along[size - 1 - step] *= (step + 1) / ramp if start + size < whole else 1
            piece = piece * (along[:, None] if axis == 0 else along[None, :])
    weight[y : y + h, x : x + w] = piece * strength
    return weight


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy() if tensor.is_floating_point() else tensor.to(torch.int64).numpy()
