"""Settings: the presets, their ranges, and what an error says."""

from dataclasses import FrozenInstanceError, fields, replace

import pytest
from cases import (
    DEFAULT,
    PAPER,
    assert_tells,
)

from scfg_core import (
    Settings,
    SettingsError,
    uniform_powers,
)


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
        "min_region": (0.01, 0.0, 0.0),
    }
    assert {field.name for field in fields(Settings)} == set(table)
    for column, name in enumerate(("default", "paper", "authors")):
        preset = Settings.preset(name)
        assert {key: getattr(preset, key) for key in table} == {key: row[column] for key, row in table.items()}
    assert Settings() == DEFAULT
    assert Settings.preset("balanced") == replace(DEFAULT, mean_preserving=True)


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
