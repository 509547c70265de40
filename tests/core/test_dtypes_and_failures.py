"""Half precision, broken numbers, empty regions, wrong input: what comes out, and what the error says."""

import re
from dataclasses import FrozenInstanceError, fields, replace

import oracle
import pytest
import torch
from cases import (
    AUTHORS,
    DEFAULT,
    PAPER,
    SETTINGS,
    array,
    assert_ratio,
    branch,
    feed,
    gathered,
    image_of,
    noise,
    pair,
    rng_of,
    two_branches,
)
from torch.utils._python_dispatch import TorchDispatchMode

from scfg_core import (
    Area,
    EntryMaps,
    Grid,
    LayerMaps,
    ScfgError,
    Segmentation,
    Settings,
    SettingsError,
    ShapeError,
    TokenMaps,
    combine,
    ratio_map,
    segment,
    segment_entries,
    uniform_powers,
)
from scfg_core.collector import Collector, Entry, Rows

HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
PRESETS = pytest.mark.parametrize("settings", [PAPER, DEFAULT, AUTHORS], ids=["paper", "default", "authors"])
BROKEN = pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=["nan", "inf", "-inf"])
GRIDS = [Grid(5, 6), Grid(3, 3)]


def two(rng, batch=2, tokens=6, grids=GRIDS, kind="structured"):
    return branch(rng, kind, batch, grids, tokens), branch(rng, kind, batch, grids, tokens)


def by_hand(labels, foreground):
    return Segmentation(labels=torch.tensor(labels)[None], foreground=torch.tensor(foreground)[None])


# ---- dtypes ------------------------------------------------------------------------------------------------


@HALVES
@PRESETS
def test_half_precision_maps_are_computed_in_single(settings, dtype):
    """The maps' own rounding is theirs; what comes after adds nothing."""
    halves = [
        [LayerMaps(x.self_attention.to(dtype), x.cross_attention.to(dtype), x.grid) for x in layers]
        for layers in two(rng_of(80))
    ]
    singles = [
        [LayerMaps(x.self_attention.float(), x.cross_attention.float(), x.grid) for x in layers]
        for layers in halves
    ]
    one, other = segment(*halves, settings), segment(*singles, settings)
    assert one.labels.equal(other.labels) and one.foreground.equal(other.foreground)
    assert one.labels.dtype == torch.int64 and one.foreground.dtype == torch.bool


@HALVES
@PRESETS
def test_half_precision_delta_is_measured_in_single(settings, dtype):
    rng = rng_of(81)
    segmentation = segment(*two(rng), settings)
    delta = noise(rng, 2, Grid(40, 48), dtype=dtype)
    ratio = ratio_map(delta, segmentation, settings, 7.5)
    assert ratio.dtype == torch.float32
    assert_ratio(ratio, delta, segmentation, settings, 7.5)


def test_norm_of_large_halves_does_not_overflow():
    """400 squared over four channels is beyond fp16."""
    rng = rng_of(82)
    segmentation = segment(*two(rng), PAPER)
    delta = (400 * noise(rng, 2, Grid(10, 12))).to(torch.float16)
    assert_ratio(ratio_map(delta, segmentation, PAPER, 7.5), delta, segmentation, PAPER, 7.5)


@HALVES
def test_half_precision_q_and_k_give_the_labels_of_their_float64_maps(dtype):
    rng, tokens = rng_of(83), 7
    blocks = [pair(rng, f"block{i}", grid, 2, tokens) for i, grid in enumerate(GRIDS)]
    halves = [
        replace(block, **{part: getattr(block, part).to(dtype) for part in ("q", "k", "cross_q", "cross_k")})
        for block in blocks
    ]
    singles = [
        replace(block, **{part: getattr(block, part).float() for part in ("q", "k", "cross_q", "cross_k")})
        for block in halves
    ]
    seen = []
    for way in ("stored", "matrix_free"):
        for group in (halves, singles):
            collector = Collector(PAPER, way=way)
            entries, rows = two_branches(1, tokens)
            collector.begin(entries)
            feed(collector, group, rows)
            seen.append(gathered(collector, PAPER, Grid(10, 12)))
    changed = [float((one.labels != seen[1].labels).float().mean()) for one in seen]
    assert changed == [0.0] * 4


@pytest.mark.parametrize("way", ["stored", "matrix_free"])
def test_autocast_around_us_changes_nothing(way):
    rng, tokens = rng_of(85), 7
    blocks = [pair(rng, f"block{i}", grid, 2, tokens) for i, grid in enumerate(GRIDS)]
    entries, rows = two_branches(1, tokens)
    seen = []
    for casting in (False, True):
        collector = Collector(PAPER, way=way)
        collector.begin(entries)
        with torch.autocast("cpu", torch.bfloat16, enabled=casting):
            feed(collector, blocks, rows)
            seen.append([collector.token_maps(entry).values for entry in entries])
    assert all(one.equal(other) for one, other in zip(*seen, strict=True))


@PRESETS
def test_autocast_around_stored_maps_changes_nothing(settings):
    maps = two(rng_of(86))
    plain = segment(*maps, settings)
    with torch.autocast("cpu", torch.bfloat16):
        assert segment(*maps, settings).scores.equal(plain.scores)


@HALVES
def test_combine_keeps_the_dtype(dtype):
    rng = rng_of(84)
    cond, uncond = (noise(rng, 1, Grid(8, 8), dtype=dtype) for _ in range(2))
    out = combine(cond, uncond, torch.full((1, 1, 8, 8), 1.3), 7.5)
    assert out.dtype == dtype
    expected = oracle.combine(array(cond), array(uncond), 1.3, 7.5)
    torch.testing.assert_close(out.double(), torch.from_numpy(expected), rtol=3e-2, atol=3e-1)


# ---- not finite --------------------------------------------------------------------------------------------


@BROKEN
@pytest.mark.parametrize("name", SETTINGS)
def test_pixel_that_is_not_finite_leaves_all_means_and_gets_one(name, value):
    rng, settings = rng_of(85), SETTINGS[name]
    segmentation = segment(*two(rng), settings)
    delta = noise(rng, 2, Grid(20, 24))
    delta[0, 1, 3:6, 4:9] = value
    delta[0, 2, 19, 23] = value
    ratio = ratio_map(delta, segmentation, settings, 7.5)
    assert ratio.isfinite().all()
    assert (ratio[0, 0, 3:6, 4:9] == 1).all() and ratio[0, 0, 19, 23] == 1
    assert_ratio(ratio, delta, segmentation, settings, 7.5)


@pytest.mark.parametrize("scale", [7.5, 30.0])
@pytest.mark.parametrize("name", SETTINGS)
def test_pixel_that_is_not_finite_is_one_for_its_neighbours_too(name, scale):
    """Neither its word's weight nor a cap below 1 reaches them through the smoothing."""
    rng, settings = rng_of(79), SETTINGS[name]
    segmentation = segment(*two(rng), settings)
    weights = {label: 0.4 + 0.3 * label for label in range(6)}
    delta = noise(rng, 2, Grid(20, 24))
    delta[1, 3, 2:17, 6:8] = float("nan")
    assert_ratio(
        ratio_map(delta, segmentation, settings, scale, weights), delta, segmentation, settings, scale, weights
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_delta_that_is_not_finite_anywhere_is_cfg(name):
    segmentation = segment(*two(rng_of(86)), SETTINGS[name])
    ratio = ratio_map(torch.full((2, 4, 20, 24), float("nan")), segmentation, SETTINGS[name], 7.5)
    assert ratio.equal(torch.ones_like(ratio))


@BROKEN
@PRESETS
@pytest.mark.parametrize("side", ["cond", "uncond"])
@pytest.mark.parametrize("which", ["self_attention", "cross_attention"])
def test_map_that_is_not_finite_spares_the_other_images(settings, side, which, value):
    rng = rng_of(87)
    cond, uncond = two(rng, batch=3)
    clean = segment(cond, uncond, settings)
    layers = {"cond": cond, "uncond": uncond}[side]
    getattr(layers[1], which)[1, 2, 3] = value
    segmentation = segment(cond, uncond, settings)
    assert segmentation.finite.tolist() == [True, False, True]
    assert (segmentation.labels[1] == -1).all()
    for image in (0, 2):
        assert segmentation.labels[image].equal(clean.labels[image])
        assert segmentation.foreground[image].equal(clean.foreground[image])
    delta = noise(rng, 3, Grid(20, 24))
    ratio, usual = (ratio_map(delta, one, settings, 7.5) for one in (segmentation, clean))
    assert ratio[1].equal(torch.ones_like(ratio[1]))
    assert ratio[0].equal(usual[0]) and ratio[2].equal(usual[2])


@pytest.mark.parametrize("way", ["stored", "matrix_free"])
@pytest.mark.parametrize("part", ["q", "k", "cross_q", "cross_k"])
@pytest.mark.parametrize("row", [1, 3])
def test_query_or_key_that_is_not_finite_spares_the_other_images(part, row, way):
    rng, tokens = rng_of(88), 6
    blocks = [pair(rng, f"block{i}", grid, 4, tokens) for i, grid in enumerate(GRIDS)]
    seen = []
    for broken in (False, True):
        if broken:
            getattr(blocks[0], part)[row, 0, 2, 3] = float("nan")
        collector = Collector(PAPER, way=way)
        entries, rows = two_branches(2, tokens)
        collector.begin(entries)
        feed(collector, blocks, rows)
        seen.append(gathered(collector, PAPER, Grid(10, 12)))
    clean, spoilt = seen
    assert spoilt.finite.tolist() == [True, False]
    assert (spoilt.labels[1] == -1).all()
    assert spoilt.labels[0].equal(clean.labels[0]) and spoilt.foreground[0].equal(clean.foreground[0])


def test_patch_of_nobody_is_one_and_out_of_every_mean():
    rng = rng_of(89)
    segmentation = by_hand([[0, -1], [1, 1]], [[True, True], [False, True]])
    delta = noise(rng, 1, Grid(8, 8))
    for settings in SETTINGS.values():
        ratio = ratio_map(delta, segmentation, settings, 7.5)
        assert (ratio[0, 0, :4, 4:] == 1).all()
        assert_ratio(ratio, delta, segmentation, settings, 7.5)
    louder = delta.clone()
    louder[..., :4, 4:] *= 100
    settings = replace(PAPER, benchmark="all")
    assert ratio_map(louder, segmentation, settings, 7.5).equal(ratio_map(delta, segmentation, settings, 7.5))


# ---- nothing to divide by ----------------------------------------------------------------------------------


def test_benchmark_without_a_pixel_is_all():
    delta = noise(rng_of(90), 1, Grid(8, 8))
    empty = by_hand([[0, 1], [1, 1]], [[False, False], [False, False]])
    everything = by_hand([[0, 1], [1, 1]], [[True, True], [True, True]])
    for settings in SETTINGS.values():
        assert ratio_map(delta, empty, settings, 7.5).equal(ratio_map(delta, everything, settings, 7.5))


def test_foreground_whose_pixels_are_all_broken_is_all():
    delta = noise(rng_of(91), 1, Grid(8, 8))
    delta[:, :, :4, :4] = float("nan")
    segmentation = by_hand([[0, 1], [1, 1]], [[True, False], [False, False]])
    for settings in SETTINGS.values():
        assert_ratio(ratio_map(delta, segmentation, settings, 7.5), delta, segmentation, settings, 7.5)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("ripple", [0.0, 5e-4])
def test_constant_start_measures_against_all(name, ripple):
    """A zeroed negative prompt attends to all tokens alike, up to noise."""
    cond, uncond = two(rng_of(92))
    for layer in uncond:
        layer.cross_attention[:] = 1 / 6
        layer.cross_attention[:, 0, 0] *= 1 + ripple
    segmentation = segment(cond, uncond, SETTINGS[name])
    assert segmentation.foreground.all()
    assert segmentation.has_foreground.tolist() == [False, False]


@PRESETS
def test_start_that_says_something_is_heard(settings):
    settings = replace(settings, power_weights=(1,), smooth_maps=False)
    cond, uncond = two(rng_of(93), grids=[Grid(5, 6)])
    uncond[0].cross_attention[:] = 1 / 6
    uncond[0].cross_attention[:, 7, 0] *= 1 - 2e-3
    segmentation = segment(cond, uncond, settings)
    assert segmentation.has_foreground.all()
    assert segmentation.foreground[0].flatten().nonzero().tolist() == [[7]]


@pytest.mark.parametrize("rule", ["start_vs_rest", "argmax"])
def test_constant_start_on_a_part_of_the_picture_says_nothing(rule):
    """A zeroed negative prompt with a mask or an area: where it is not, START is not either."""
    settings, grid, weight = replace(PAPER, foreground_rule=rule), Grid(4, 4), torch.zeros(8, 8)
    weight[:, :4] = 1.0
    text = EntryMaps(TokenMaps(torch.rand(1, 16, 6) + 0.1, grid))
    flat = 0.5 + 1e-4 * torch.rand(1, 16, 2 if rule == "start_vs_rest" else 6)
    segmentation = segment_entries([text], [EntryMaps(TokenMaps(flat, grid), weight=weight)], settings, Grid(8, 8))
    assert not segmentation.has_foreground.any() and segmentation.foreground.all()


def test_start_says_nothing_for_one_image_only():
    cond, uncond = two(rng_of(94), batch=2)
    clean = segment(cond, uncond, PAPER)
    for layer in uncond:
        layer.cross_attention[1] = 1 / 6
    segmentation = segment(cond, uncond, PAPER)
    assert segmentation.has_foreground.tolist() == [True, False]
    assert segmentation.foreground[1].all() and segmentation.foreground[0].equal(clean.foreground[0])


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("tokens", [1, 2])
def test_prompt_of_start_alone_is_one_region(name, tokens):
    rng, settings = rng_of(95), SETTINGS[name]
    cond, uncond = two(rng, tokens=tokens)
    segmentation = segment(cond, uncond, settings)
    delta = noise(rng, 2, Grid(20, 24))
    ratio = ratio_map(delta, segmentation, settings, 7.5)
    assert ratio.isfinite().all()
    assert_ratio(ratio, delta, segmentation, settings, 7.5)
    if tokens == 1:
        assert (segmentation.labels == 0).all() and segmentation.foreground.all()
        assert not segmentation.has_foreground.any()
        if settings.regions == "semantic":
            torch.testing.assert_close(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("way", ["stored", "matrix_free"])
@pytest.mark.parametrize("name", ["paper", "authors", "argmax_foreground"])
def test_prompt_of_start_alone_through_the_collector(name, way):
    blocks = [pair(rng_of(96), f"block{i}", grid, 2, 1) for i, grid in enumerate(GRIDS)]
    collector = Collector(SETTINGS[name], way=way)
    entries, rows = two_branches(1, 1)
    collector.begin(entries)
    feed(collector, blocks, rows)
    segmentation = gathered(collector, SETTINGS[name], Grid(10, 12))
    assert (segmentation.labels == 0).all() and segmentation.foreground.all() and segmentation.finite.all()


@pytest.mark.parametrize("name", SETTINGS)
def test_one_patch_is_one_region(name):
    rng, settings = rng_of(97), SETTINGS[name]
    cond, uncond = two(rng, grids=[Grid(1, 1)], tokens=4)
    segmentation = segment(cond, uncond, settings)
    delta = noise(rng, 2, Grid(3, 5))
    ratio = ratio_map(delta, segmentation, settings, 7.5)
    torch.testing.assert_close(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("name", SETTINGS)
def test_delta_of_zero_is_cfg(name):
    segmentation = segment(*two(rng_of(98)), SETTINGS[name])
    ratio = ratio_map(torch.zeros(2, 4, 20, 24), segmentation, SETTINGS[name], 7.5)
    torch.testing.assert_close(ratio, torch.ones_like(ratio))


def test_region_without_guidance_gets_one():
    delta = noise(rng_of(99), 1, Grid(8, 8))
    delta[..., :4] = 0
    ratio = ratio_map(delta, by_hand([[0, 1]], [[True, True]]), PAPER, 7.5)
    assert (ratio[..., :4] == 1).all()
    torch.testing.assert_close(ratio[..., 4:], torch.full((1, 1, 8, 4), 0.5))


def test_word_weights_of_zero_everywhere_stay_finite():
    segmentation = by_hand([[0, 1]], [[True, True]])
    ratio = ratio_map(
        noise(rng_of(100), 1, Grid(8, 8)), segmentation, SETTINGS["mean_preserving"], 7.5, {0: 0, 1: 0}
    )
    assert ratio.isfinite().all()


def test_segmentation_of_no_positive_entry_anywhere_is_cfg():
    segmentation = by_hand([[-1, -1]], [[True, True]])
    for settings in SETTINGS.values():
        ratio = ratio_map(noise(rng_of(101), 1, Grid(8, 8)), segmentation, settings, 7.5)
        assert ratio.equal(torch.ones_like(ratio))


# ---- the device is never waited for ------------------------------------------------------------------------


class NoSync(TorchDispatchMode):
    """Fails on whatever would wait for a GPU: a tensor's value read by the host, a shape that depends on values."""

    WAITING = (
        "_local_scalar_dense",
        "nonzero",
        "masked_select",
        "_unique2",
        "equal",
        "bincount",
        "is_nonzero",
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            masks = [index for index in args[1] if index is not None and index.dtype == torch.bool]
            assert not masks, "a boolean index waits for the device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", ["stored", "fused", "matrix_free", "auto"])
@pytest.mark.parametrize("name", SETTINGS)
def test_an_evaluation_never_waits_for_the_device(name, way):
    rng, tokens, settings = rng_of(102), 6, SETTINGS[name]
    blocks = [pair(rng, f"block{i}", grid, 2, tokens) for i, grid in enumerate(GRIDS)]
    delta = noise(rng, 1, Grid(10, 12))
    collector = Collector(settings, way=way)
    entries, rows = two_branches(1, tokens)
    with NoSync():
        collector.begin(entries)
        for block in blocks:
            collector.attend_self(block.name, block.q, block.k, block.k, rows, block.grid)
            collector.observe_cross(block.name, block.cross_q, block.cross_k, rows, block.grid)
        segmentation = gathered(collector, settings, Grid(10, 12))
        ratio = ratio_map(delta, segmentation, settings, 7.5, {1: 0.5})
        combine(delta, delta, ratio, 7.5)


def test_gradients_are_not_recorded():
    blocks = [pair(rng_of(103), "block", Grid(4, 4), 2, 5)]
    for part in ("q", "k", "cross_q", "cross_k"):
        getattr(blocks[0], part).requires_grad_()
    collector = Collector(PAPER)
    entries, rows = two_branches(1, 5)
    collector.begin(entries)
    feed(collector, blocks, rows)
    assert not collector.token_maps("positive").values.requires_grad


# ---- settings ----------------------------------------------------------------------------------------------


def test_presets_are_the_table():
    """METHOD's table, row by row: default, paper, authors."""
    inf = float("inf")
    quarters = (0.0, 0.25, 0.25, 0.25, 0.25)
    table = {
        "power_weights": (quarters, quarters, (0.0, 0.25, 0.75)),
        "renormalise": ("after_fusion", "after_fusion", "per_layer"),
        "smooth_maps": (False, False, True),
        "foreground_rule": ("start_vs_rest",) * 3,
        "benchmark": ("foreground",) * 3,
        "regions": ("semantic",) * 3,
        "ratio_min": (0.8, 0.0, 0.8),
        "ratio_max": (3.0, inf, 3.0),
        "cap": ("soft", "none", "hard"),
        "smooth_ratio": (True, False, True),
        "mean_preserving": (False,) * 3,
        "strength": (1.0,) * 3,
        "start": (0.0,) * 3,
        "end": (1.0,) * 3,
    }
    assert {field.name for field in fields(Settings)} == set(table)
    for column, name in enumerate(("default", "paper", "authors")):
        preset = Settings.preset(name)
        assert {key: getattr(preset, key) for key in table} == {key: row[column] for key, row in table.items()}
    assert Settings() == DEFAULT


def test_settings_are_frozen_and_comparable():
    with pytest.raises(FrozenInstanceError):
        DEFAULT.strength = 0.5
    assert replace(DEFAULT, strength=0.5) != DEFAULT == replace(DEFAULT)
    assert len({DEFAULT, replace(DEFAULT), PAPER}) == 2


@pytest.mark.parametrize(
    "progress, active",
    [(0.0, False), (0.19, False), (0.2, True), (0.5, True), (0.8, True), (0.81, False), (1.0, False)],
)
def test_schedule_acts_inside_its_range(progress, active):
    assert replace(DEFAULT, start=0.2, end=0.8).active_at(progress) is active
    assert not replace(DEFAULT, start=0.2, end=0.8, strength=0.0).active_at(progress)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_whole_schedule_is_the_usual_range(progress):
    assert DEFAULT.active_at(progress)


MESSAGE = re.compile(r"expected .+, got .+: .+", re.DOTALL)


def assert_tells(error, *words):
    """The three parts of an error, and the words that must be in it."""
    message = str(error.value)
    assert MESSAGE.fullmatch(message), message
    for word in words:
        assert word in message, f"{word!r} is missing in {message!r}"
    assert isinstance(error.value, ScfgError) and isinstance(error.value, ValueError)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"power_weights": ()}, ["power_weights"]),
        ({"power_weights": (0.0,) + (1 / 9,) * 9}, ["power_weights", "9"]),
        ({"power_weights": (0.5, 0.4)}, ["power_weights", "1"]),
        ({"power_weights": (1.5, -0.5)}, ["power_weights", "0"]),
        ({"power_weights": (float("nan"), 1.0)}, ["power_weights"]),
        ({"renormalise": "before"}, ["renormalise", "before", "per_layer"]),
        ({"foreground_rule": "otsu"}, ["foreground_rule", "otsu", "argmax"]),
        ({"benchmark": "background"}, ["benchmark", "background", "all"]),
        ({"regions": "pixels"}, ["regions", "pixels", "patch"]),
        ({"cap": "firm"}, ["cap", "firm", "soft"]),
        ({"ratio_min": -0.1}, ["ratio_min", "-0.1"]),
        ({"ratio_min": 3.5}, ["ratio_min", "3.5"]),
        ({"ratio_max": 0.9}, ["ratio_max", "0.9"]),
        ({"ratio_min": 0.9, "ratio_max": 0.5}, ["ratio_max", "0.5"]),
        ({"ratio_max": float("nan")}, ["ratio_max", "nan"]),
        ({"strength": 1.1}, ["strength", "1.1"]),
        ({"strength": -0.1}, ["strength", "-0.1"]),
        ({"start": -0.1}, ["start", "-0.1"]),
        ({"end": 1.5}, ["end", "1.5"]),
        ({"start": 0.7, "end": 0.3}, ["start", "0.7", "0.3"]),
    ],
)
def test_setting_outside_its_range_is_named(change, words):
    with pytest.raises(SettingsError) as error:
        replace(DEFAULT, **change)
    assert_tells(error, *words)


def test_unknown_preset_is_named_with_those_that_exist():
    with pytest.raises(SettingsError) as error:
        Settings.preset("best")
    assert_tells(error, "best", "default", "paper", "authors")


@pytest.mark.parametrize("steps", [-1, 9, 100])
def test_number_of_power_steps_outside_its_range_is_named(steps):
    with pytest.raises(SettingsError) as error:
        uniform_powers(steps)
    assert_tells(error, str(steps), "8")


def test_uniform_powers_are_equation_10():
    assert uniform_powers(4) == PAPER.power_weights
    assert uniform_powers(1) == (0.0, 1.0)
    assert uniform_powers(0) == (1.0,)


# ---- shapes ------------------------------------------------------------------------------------------------


def maps(grid, tokens=5, batch=2, patches=None):
    patches = patches or grid.area
    return torch.full((batch, patches, patches), 1 / patches), torch.full((batch, patches, tokens), 1 / tokens)


@pytest.mark.parametrize(
    "self_shape, cross_shape",
    [
        ((1, 20, 20), (1, 20, 5)),
        ((1, 12, 12), (1, 20, 5)),
        ((1, 20, 12), (1, 12, 5)),
        ((1, 12, 20), (1, 12, 5)),
        ((2, 12, 12), (1, 12, 5)),
        ((12, 12), (12, 5)),
        ((1, 12, 12), (1, 12)),
        ((1, 12, 12), (1, 12, 0)),
        ((1, 3, 4, 12), (1, 12, 5)),
        (None, (1, 20, 5)),
    ],
)
def test_maps_that_do_not_fit_their_grid_are_refused(self_shape, cross_shape):
    self_map = None if self_shape is None else torch.ones(self_shape)
    with pytest.raises(ShapeError) as error:
        LayerMaps(self_map, torch.ones(cross_shape), Grid(3, 4))
    assert_tells(error, "12")


@pytest.mark.parametrize("h, w", [(0, 4), (3, 0), (-1, 5)])
def test_empty_grid_is_refused(h, w):
    with pytest.raises(ShapeError) as error:
        Grid(h, w)
    assert_tells(error, f"{h}×{w}")


@pytest.mark.parametrize("cond, uncond", [(0, 1), (1, 0), (0, 0)])
def test_branch_without_a_layer_is_refused(cond, uncond):
    layer = LayerMaps(*maps(Grid(3, 4)), Grid(3, 4))
    with pytest.raises(ScfgError) as error:
        segment([layer] * cond, [layer] * uncond, PAPER)
    assert_tells(error)


def test_no_start_needs_no_unconditional_maps():
    cond, _ = two(rng_of(104))
    segmentation = segment(cond, [], PAPER, start_tokens=())
    assert segmentation.foreground.all() and not segmentation.has_foreground.any()


@pytest.mark.parametrize("where", ["cond", "uncond"])
def test_layers_of_different_batch_are_refused(where):
    layers = {side: [LayerMaps(*maps(Grid(3, 4)), Grid(3, 4))] for side in ("cond", "uncond")}
    layers[where].append(LayerMaps(*maps(Grid(2, 2), batch=3), Grid(2, 2)))
    with pytest.raises(ShapeError) as error:
        segment(layers["cond"], layers["uncond"], PAPER)
    assert_tells(error, "2", "3")


def test_branches_of_different_batch_are_refused():
    cond, uncond = ([LayerMaps(*maps(Grid(3, 4), batch=batch), Grid(3, 4))] for batch in (2, 3))
    with pytest.raises(ShapeError) as error:
        segment(cond, uncond, PAPER)
    assert_tells(error, "2", "3")


@pytest.mark.parametrize("where", ["cond", "uncond"])
def test_layers_of_different_length_are_refused(where):
    layers = {side: [LayerMaps(*maps(Grid(3, 4)), Grid(3, 4))] for side in ("cond", "uncond")}
    layers[where].append(LayerMaps(*maps(Grid(2, 2), tokens=6), Grid(2, 2)))
    with pytest.raises(ShapeError) as error:
        segment(layers["cond"], layers["uncond"], PAPER)
    assert_tells(error, "5", "6")


@pytest.mark.parametrize("start_tokens", [(5,), (0, 7), (-1,)])
def test_start_token_beyond_the_prompt_is_refused(start_tokens):
    layers = [LayerMaps(*maps(Grid(3, 4)), Grid(3, 4))]
    with pytest.raises(ScfgError) as error:
        segment(layers, layers, PAPER, start_tokens=start_tokens)
    assert_tells(error, str(start_tokens[-1]))


def test_powers_without_self_attention_are_refused():
    layers = [LayerMaps(None, maps(Grid(3, 4))[1], Grid(3, 4))]
    with pytest.raises(ScfgError) as error:
        segment(layers, layers, PAPER)
    assert_tells(error, "self_attention")


@pytest.mark.parametrize("shape", [(2, 4, 8), (3, 4, 8, 8), (2, 4, 8, 8, 8), (4, 8, 8)])
def test_delta_that_does_not_fit_the_segmentation_is_refused(shape):
    segmentation = Segmentation(
        labels=torch.zeros(2, 3, 4, dtype=torch.int64), foreground=torch.ones(2, 3, 4, dtype=torch.bool)
    )
    with pytest.raises(ShapeError) as error:
        ratio_map(torch.ones(shape), segmentation, PAPER, 7.5)
    assert_tells(error)


@pytest.mark.parametrize("labels, foreground", [((2, 3, 4), (2, 4, 3)), ((2, 3, 4), (1, 3, 4)), ((3, 4), (3, 4))])
def test_segmentation_whose_parts_do_not_fit_is_refused(labels, foreground):
    with pytest.raises(ShapeError) as error:
        Segmentation(
            labels=torch.zeros(labels, dtype=torch.int64), foreground=torch.ones(foreground, dtype=torch.bool)
        )
    assert_tells(error)


@pytest.mark.parametrize("ratio", [(2, 4, 8, 8), (2, 8, 8), (2, 1, 4, 8), (3, 1, 8, 8)])
def test_ratio_that_does_not_fit_the_prediction_is_refused(ratio):
    eps = torch.ones(2, 4, 8, 8)
    with pytest.raises(ShapeError) as error:
        combine(eps, eps, torch.ones(ratio), 7.5)
    assert_tells(error)


def test_predictions_of_different_shape_are_refused():
    with pytest.raises(ShapeError) as error:
        combine(torch.ones(2, 4, 8, 8), torch.ones(2, 4, 8, 9), torch.ones(2, 1, 8, 8), 7.5)
    assert_tells(error)


# ---- the collector's input ---------------------------------------------------------------------------------


def fed(tokens=5, grid=None, entry_tokens=5, **how):
    """A collector that is given one block."""
    block = pair(rng_of(105), "block", Grid(3, 4), 2, tokens)
    block = replace(block, grid=grid or block.grid)
    collector = Collector(PAPER, **how)
    entries, rows = two_branches(1, entry_tokens)
    collector.begin(entries)
    feed(collector, [block], rows)


@pytest.mark.parametrize(
    "how, words",
    [
        ({"grid": Grid(4, 4)}, ["12", "4×4"]),
        ({"entry_tokens": 4}, ["5", "4"]),
        ({"tokens": 7, "entry_tokens": 3}, ["7", "3"]),
        ({"way": "quick"}, ["quick", "stored", "fused", "matrix_free"]),
        ({"budget_mib": 0.0}, ["0"]),
        ({"budget_mib": -1.0}, ["-1"]),
    ],
)
def test_collector_names_what_does_not_fit(how, words):
    with pytest.raises(ScfgError) as error:
        fed(**how)
    assert_tells(error, *words)


def test_token_maps_of_an_entry_never_fed_are_an_error_of_the_caller():
    collector = Collector(PAPER)
    collector.begin({"positive": Entry("cond", 5)})
    with pytest.raises(ScfgError) as error:
        collector.token_maps("positive")
    assert_tells(error, "positive")


def entry_maps(columns=5, **where):
    return EntryMaps(TokenMaps(torch.rand(1, 12, columns), Grid(3, 4), False), **where)


@pytest.mark.parametrize(
    "area", [Area(0, 0, 40, 8), Area(0, 30, 4, 4), Area(-1, 0, 4, 4), Area(0, 0, 0, 4), Area(0, 0, 4, -4)]
)
def test_area_outside_the_latent_is_refused(area):
    cond = [entry_maps(), entry_maps(area=area)]
    with pytest.raises(ScfgError) as error:
        segment_entries(cond, [entry_maps(2)], PAPER, Grid(32, 32))
    assert_tells(error, "32")


@pytest.mark.parametrize("shape", [(32,), (16, 32), (2, 32, 32), (1, 1, 32, 32)])
def test_weight_that_does_not_fit_the_latent_is_refused(shape):
    cond = [entry_maps(), entry_maps(weight=torch.ones(shape))]
    with pytest.raises(ShapeError) as error:
        segment_entries(cond, [entry_maps(2)], PAPER, Grid(32, 32))
    assert_tells(error, str(shape))


def test_maps_on_another_grid_without_an_area_are_refused():
    other = EntryMaps(TokenMaps(torch.rand(1, 6, 5), Grid(2, 3), False))
    with pytest.raises(ShapeError) as error:
        segment_entries([entry_maps(), other], [entry_maps(2)], PAPER, Grid(32, 32))
    assert_tells(error, "2×3", "3×4")


def test_rows_of_an_entry_never_declared_are_refused():
    block = pair(rng_of(107), "block", Grid(3, 4), 1, 5)
    collector = Collector(PAPER)
    collector.begin({"positive": Entry("cond", 5)})
    with pytest.raises(ScfgError) as error:
        feed(collector, [block], [Rows("stranger", slice(0, 1))])
    assert_tells(error, "stranger", "positive")


def test_joint_text_of_another_length_is_refused():
    collector = Collector(PAPER)
    collector.begin({"positive": Entry("cond", 5)})
    q, k = torch.rand(1, 2, 12, 8), torch.rand(1, 2, 19, 8)
    with pytest.raises(ShapeError) as error:
        collector.observe_joint(
            "block", q, k, [Rows("positive", slice(0, 1))], Grid(3, 4), text=slice(0, 7), image=slice(7, 19)
        )
    assert_tells(error, "5", "7")


def test_joint_image_of_another_size_is_refused():
    collector = Collector(PAPER)
    collector.begin({"positive": Entry("cond", 5)})
    q, k = torch.rand(1, 2, 12, 8), torch.rand(1, 2, 19, 8)
    with pytest.raises(ShapeError) as error:
        collector.observe_joint(
            "block", q, k, [Rows("positive", slice(0, 1))], Grid(3, 4), text=slice(0, 5), image=slice(5, 19)
        )
    assert_tells(error, "12", "14")


def test_cross_attention_without_its_self_attention_is_refused():
    block = pair(rng_of(108), "block", Grid(3, 4), 1, 5)
    collector = Collector(PAPER)
    collector.begin({"positive": Entry("cond", 5)})
    with pytest.raises(ScfgError) as error:
        collector.observe_cross("block", block.cross_q, block.cross_k, [Rows("positive", slice(0, 1))], block.grid)
    assert_tells(error, "block")


def test_oracle_agrees_that_the_broken_cases_are_clean_otherwise():
    """The structured cases of this file are not made of ties."""
    cond, uncond = two(rng_of(106))
    expected = oracle.segment(image_of(cond, 0), image_of(uncond, 0), PAPER)
    assert expected.tied.mean() < 0.05 and expected.has_foreground
