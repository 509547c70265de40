"""What S-CFG should have done to a transformer in a run, by the oracle, and the check that it did."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfg_core import Settings

from ...core import oracle
from .. import host
from ..expected import Guided, scfg
from .models import FAMILIES, Family
from .probe import Probe

CFG = 4.0


def sample(patcher: Any, positive: list, negative: list, latent: dict[str, Tensor], **keys: Any) -> Tensor:
    """Three steps, as a workflow runs them."""
    with torch.inference_mode():
        return host.ksample(patcher, positive, negative, latent, **{"cfg": CFG, "steps": 3, **keys})


def guided_run(
    patcher: Any, family: Family, positive: list, negative: list, latent: dict[str, Tensor], **keys: Any
) -> tuple[Probe, Guided, Tensor]:
    guided = scfg(patcher, **keys)
    probe = Probe(guided.model, family)
    with probe():
        image = sample(probe.patcher, positive, negative, latent)
    return probe, guided, image


def check(
    probe: Probe,
    guided: Guided,
    lengths: tuple[int, int],
    *,
    settings: Settings | None = None,
    dead: tuple[set[int], set[int]] = (set(), set()),
    owners: list[int] | None = None,
) -> None:
    """Labels, foreground, ratio and the guided prediction of every evaluation are those of the oracle."""
    settings, family = settings or Settings(), probe.family
    assert "S-CFG active" in guided.line, guided.line
    assert "experimental" in guided.line, guided.line
    assert guided.run.layers, guided.line
    chosen = [probe.names[_place(layer, probe)] for layer in guided.run.layers]
    assert len(guided.run.evaluations) == len(probe.evaluations) == 3
    for index, (seen, recorded) in enumerate(zip(probe.evaluations, guided.run.evaluations, strict=True)):
        args = seen.args
        text, empty = (_numpy(args[name]) for name in ("cond_denoised", "uncond_denoised"))
        for image in range(len(text)):
            wanted = _segmented(probe, index, image, chosen, lengths, settings, dead, owners)
            labels, foreground = _numpy(recorded.labels[image]), recorded.foreground[image].numpy()
            assert labels.shape == wanted.labels.shape
            assert wanted.tied.mean() <= 0.05, "too many ties for a test"
            assert np.array_equal(labels[~wanted.tied], wanted.labels[~wanted.tied])
            assert len(np.unique(labels)) > 2, "nothing to see: hardly any labels"
            assert np.array_equal(foreground[~wanted.fg_tied], wanted.foreground[~wanted.fg_tied])
            if family.starts == 0:
                assert foreground.all()
            delta = text[image] - empty[image]
            rows = delta.reshape(delta.shape[0], -1, delta.shape[-1])
            ratio = oracle.ratio_map(rows, labels, foreground, settings, args["cond_scale"])
            assert np.ptp(ratio) > 0.01, "nothing to see: the ratio is the same everywhere"
            expected = oracle.patch_weight(ratio, labels.shape)
            np.testing.assert_allclose(recorded.ratio[image].numpy(), expected, rtol=1e-5)
            prediction = oracle.combine(text[image], empty[image], ratio.reshape(1, *delta.shape[1:]), CFG)
            difference = np.abs(_numpy(args["denoised"][image]) - prediction).max()
            assert difference < 1e-5 * np.abs(prediction).max()


def _segmented(probe, index, image, chosen, lengths, settings, dead, owners) -> oracle.Segmented:
    family, starts = probe.family, probe.family.start_columns()
    columns = [family.columns(length) for length in lengths]
    wanted = family.owners(lengths[0]) if owners is None else owners
    nobody = [column for column in range(columns[0]) if column not in wanted]

    def owned(cross: np.ndarray) -> np.ndarray:
        """Columns that own nothing are empty."""
        cross = oracle.fold_starts(cross, starts).copy()
        cross[:, nobody] = 0
        return cross

    divided = settings.renormalise != "per_layer"
    cond = probe.maps(index, 0, image, chosen, columns[0], dead[0], divided)
    maps, grid = oracle.fuse(cond, settings, owned, 1e-8)
    labels, tied = oracle.best_and_tied(oracle.scores_of(maps, settings))
    foreground, fg_tied = np.ones(len(labels), dtype=bool), np.zeros(len(labels), dtype=bool)
    if starts:
        uncond = probe.maps(index, 1, image, chosen, columns[1], dead[1], divided)
        foreground, fg_tied, start = oracle.foreground_of(uncond, settings, starts)
        if oracle.says_nothing(start) or not foreground.any():
            foreground = np.ones(len(labels), dtype=bool)
    return oracle.Segmented(
        labels.reshape(grid), foreground.reshape(grid), tied.reshape(grid), fg_tied.reshape(grid), bool(starts)
    )


def _place(layer: str, probe: Probe) -> int:
    """Which of all blocks a layer is: "single.2" comes behind all double ones."""
    kind, _, index = layer.partition(".")
    if not kind.startswith("single"):
        return int(index)
    return int(index) + sum("double" in name for name in probe.names)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def family(name: str) -> Family:
    return FAMILIES[name]
