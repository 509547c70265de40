"""What S-CFG should have done to a pipeline, by the oracle, and the check that it did."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from scfg_core import Run, Settings, scfg

from ...core import oracle
from .probe import Probe
from .tiny import Kind

SIZE = (10, 14)


def guided_run(pipe: Any, kind: Kind, images: int = 1, settings: Settings | None = None, **changes: Any):
    """(probe, run, latents) of one sampling."""
    probe, attach = Probe(pipe, kind), changes.pop("attach", {})
    height, width = changes.pop("size", SIZE)
    with probe(), scfg(pipe, settings, **kind.given | attach) as run:
        latents = pipe(**kind.arguments(images, height, width, **changes)).images
    return probe, run, latents


def check(
    probe: Probe,
    run: Run,
    images: int = 1,
    settings: Settings | None = None,
    size: tuple[int, int] = SIZE,
    lengths: Sequence[tuple[int, int]] = (),
    owners: Sequence[int] | None = None,
    combine: Any = None,
) -> None:
    """Labels, foreground, ratio of every evaluation, and what the scheduler was given, are those of the oracle.

    lengths  text columns of (conditional, unconditional) prompts, image by image; () = the kind's.
    owners   columns that may own patches; None = the kind's.
    """
    settings, kind = settings or Settings(), probe.kind
    assert not run.notes, run.notes
    assert run.layers and len(run.evaluations) == len(probe.steps) == 3
    grid = (size[0] // 2, size[1] // 2)
    for index, (step, recorded) in enumerate(zip(probe.steps, run.evaluations, strict=True)):
        assert recorded.guidance_scale == kind.gamma
        for image in range(images):
            columns = lengths[image] if lengths else kind.lengths
            wanted = _segmented(probe, index, image, list(run.layers), columns, settings, grid, owners)
            labels = recorded.labels[image].numpy().astype(int)
            foreground = recorded.foreground[image].numpy()
            assert labels.shape == wanted.labels.shape
            assert wanted.tied.mean() <= 0.05, "too many ties for a test"
            assert len(np.unique(labels)) > 2, "nothing to see: hardly any labels"
            assert np.array_equal(labels[~wanted.tied], wanted.labels[~wanted.tied])
            assert np.array_equal(foreground[~wanted.fg_tied], wanted.foreground[~wanted.fg_tied])
            assert foreground.all() == (not wanted.has_foreground)
            cond, uncond = (probe.predicted(index, branch, image, grid) for branch in (0, 1))
            ratio = oracle.ratio_map(cond - uncond, labels, foreground, settings, kind.gamma)
            assert np.ptp(ratio) > 0.01, "nothing to see: the ratio is the same everywhere"
            expected = oracle.patch_weight(ratio, labels.shape)
            np.testing.assert_allclose(recorded.ratio[image].numpy(), expected, rtol=1e-5)
            moved = uncond + ratio * (cond - uncond)
            sides = (probe.as_pipeline(side) for side in (moved, uncond))
            guided = kind.sign * (combine or kind.combine)(*sides, 4.0)
            given = step.guided[image].double().numpy().reshape(guided.shape)
            assert np.abs(given - guided).max() < 1e-5 * np.abs(guided).max()


def _segmented(
    probe: Probe,
    index: int,
    image: int,
    layers: list[str],
    columns: tuple[int, int],
    settings: Settings,
    grid: tuple[int, int],
    owners: Sequence[int] | None,
) -> oracle.Segmented:
    kind = probe.kind
    starts = tuple(range(kind.starts))
    mine = range(columns[0] - kind.suffix) if owners is None else owners
    nobody = [column for column in range(columns[0]) if column not in mine]

    def owned(cross: np.ndarray) -> np.ndarray:
        """Columns that own nothing are empty."""
        cross = oracle.fold_starts(cross, starts).copy()
        cross[:, nobody] = 0
        return cross

    divide = settings.renormalise != "per_layer"
    maps, _ = oracle.fuse(probe.maps(index, 0, image, layers, columns[0], grid, divide), settings, owned, 1e-8)
    labels, tied = oracle.best_and_tied(oracle.scores_of(maps, settings))
    foreground, fg_tied, separates = np.ones(len(labels), dtype=bool), np.zeros(len(labels), dtype=bool), False
    if starts:
        uncond = probe.maps(index, 1, image, layers, columns[1], grid, divide)
        foreground, fg_tied, start = oracle.foreground_of(uncond, settings, starts)
        separates = not oracle.says_nothing(start) and bool(foreground.any())
        if not separates:
            foreground = np.ones(len(labels), dtype=bool)
    return oracle.Segmented(
        labels.reshape(grid), foreground.reshape(grid), tied.reshape(grid), fg_tied.reshape(grid), separates
    )
