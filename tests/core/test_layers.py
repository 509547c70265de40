"""Which layers are watched, on the layouts of the models that the paper names."""

import pytest

from scfg_core.collect.layers import LayerInfo, choose_by_depth, choose_layers
from scfg_core.errors import ScfgError


def layout(*levels_and_counts: tuple[int, int]) -> list[LayerInfo]:
    """Layers in the order of execution: `count` at `level`, named level.index."""
    seen: dict[int, int] = {}
    layers = []
    for level, count in levels_and_counts:
        for _ in range(count):
            layers.append(LayerInfo(f"{level}.{seen.get(level, 0)}", level))
            seen[level] = seen.get(level, 0) + 1
    return layers


SD15 = layout((0, 2), (1, 2), (2, 2), (3, 1), (2, 3), (1, 3), (0, 3))
SDXL = layout((1, 4), (2, 20), (2, 10), (2, 30), (1, 6))


@pytest.mark.parametrize("choice", ["auto", "all"])
def test_sd15_uses_the_middle_block_and_the_level_above_it(choice):
    assert choose_layers(SD15, choice) == ["2.0", "2.1", "3.0", "2.2", "2.3", "2.4"]


def test_last_takes_three_of_each_level_in_the_order_they_run():
    assert choose_layers(SD15, "last") == ["3.0", "2.2", "2.3", "2.4"]


def test_auto_takes_the_last_three_of_crowded_levels_only():
    assert choose_layers(SDXL, "auto") == ["2.57", "2.58", "2.59", "1.7", "1.8", "1.9"]


def test_all_takes_seventy_of_sdxl():
    assert len(choose_layers(SDXL, "all")) == 70


def test_one_level_is_enough():
    assert choose_layers(layout((1, 2)), "auto") == ["1.0", "1.1"]


@pytest.mark.parametrize(("layers", "choice"), [([], "auto"), (SD15, "some")])
def test_nothing_to_choose_from_and_unknown_choices_are_errors(layers, choice):
    with pytest.raises(ScfgError, match="expected"):
        choose_layers(layers, choice)


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(1, [0]), (8, [2, 3]), (24, [7, 8, 9, 10, 11]), (28, [8, 9, 10, 11, 12]), (57, [17, 19, 21, 23, 25])],
)
def test_a_transformer_uses_about_five_blocks_between_30_and_50_percent_of_its_depth(depth, expected):
    names = [str(block) for block in range(depth)]
    assert choose_by_depth(names, "auto") == [names[block] for block in expected]
    assert choose_by_depth(names, "all") == names
    assert choose_by_depth(names, "last") == names[-5:]


def test_a_transformer_without_blocks_or_with_another_choice_is_an_error():
    with pytest.raises(ScfgError, match="transformer"):
        choose_by_depth([], "auto")
    with pytest.raises(ScfgError, match="layers"):
        choose_by_depth(["0"], "first")  # type: ignore[arg-type]
