"""Several prompts in one image: areas, weights, masks, and who wins a patch."""

import numpy as np
import oracle
import pytest
import torch
from cases import (
    AUTHORS,
    DEFAULT,
    LATENT,
    PAPER,
    SETTINGS,
    assert_segmented,
    blocks_of,
    entry_maps,
    feed,
    gathered,
    maps_of,
    rng_of,
    same,
    segmented,
    tensor,
    two_branches,
)

from scfg_core import Area, Grid, Prompt, segment_entries
from scfg_core.collect.calls import Rows
from scfg_core.collect.collector import Collector
from scfg_core.prompt import number_labels

BOTH = pytest.mark.parametrize("settings", [PAPER, AUTHORS], ids=["paper", "authors"])


AREAS = {
    # name: [(area or None, grid, tokens, weight or None)] of the positive entries
    "two_prompts_everywhere": [(None, Grid(8, 6), 5, None), (None, Grid(8, 6), 7, None)],
    "left_and_right": [(Area(0, 0, 32, 12), Grid(8, 3), 5, None), (Area(0, 12, 32, 12), Grid(8, 3), 4, None)],
    "area_over_all": [(None, Grid(8, 6), 5, None), (Area(8, 4, 16, 12), Grid(4, 3), 6, None)],
    "area_first": [(Area(8, 4, 16, 12), Grid(4, 3), 6, None), (None, Grid(8, 6), 5, None)],
    "off_the_patches": [(None, Grid(8, 6), 5, None), (Area(5, 3, 17, 14), Grid(5, 4), 6, None)],
    "hole": [(Area(0, 0, 16, 24), Grid(4, 6), 5, None), (Area(20, 8, 12, 8), Grid(3, 2), 6, None)],
    "weights": [(None, Grid(8, 6), 5, "hill"), (None, Grid(8, 6), 7, "slope")],
    "mask_with_a_hole": [(None, Grid(8, 6), 5, "left"), (None, Grid(8, 6), 7, "corner")],
    "weighted_area": [(None, Grid(8, 6), 5, "hill"), (Area(8, 4, 16, 12), Grid(4, 3), 6, "inside")],
}
CANVAS = Grid(32, 24)


def weight_named(name):
    y, x = np.mgrid[0 : CANVAS.h, 0 : CANVAS.w]
    return {
        None: None,
        "hill": np.exp(-((y - 16) ** 2 + (x - 12) ** 2) / 90),
        "slope": 0.1 + x / CANVAS.w,
        "left": (x < 11).astype(float),
        "corner": ((x > 17) & (y > 9)).astype(float),
        "inside": ((y >= 8) & (y < 24) & (x >= 4) & (x < 16)) * (0.5 + y / 32),
    }[name]


def box(area):
    return None if area is None else (area.y, area.x, area.h, area.w)


def place(settings, collector, rng, branch, spec, batch=1):
    """Feed one prompt per line of spec; returns the product's prompts and, per image, the oracle's."""
    product, expected = [], [[] for _ in range(batch)]
    for index, (area, grid, tokens, weight) in enumerate(spec):
        key = f"{branch}{index}"
        blocks = blocks_of(rng, batch, tokens, [grid])
        feed(collector, blocks, [Rows(key, slice(0, batch))])
        weights = weight_named(weight)
        product.append((key, area, None if weights is None else tensor(weights)))
        for image in range(batch):
            if branch == "cond":
                maps, _ = oracle.fuse(maps_of(blocks, image, tokens), settings, lambda cross: cross, 1e-8)
            else:
                maps, _ = oracle.fuse(
                    maps_of(blocks, image, tokens),
                    settings,
                    lambda cross: oracle.start_and_rest(cross, (0,)),
                    0.0,
                )
            expected[image].append((maps, (grid.h, grid.w), box(area), weights))
    return product, expected


def prompts_of(branch, spec):
    prompts = number_labels(Prompt.plain(branch, tokens) for _, _, tokens, _ in spec)
    return {f"{branch}{index}": prompt for index, prompt in enumerate(prompts)}


def placed(settings, seed, cond_spec, uncond_spec, batch=1, latent=CANVAS):
    rng = rng_of(seed)
    collector = Collector(settings)
    collector.begin(prompts_of("cond", cond_spec) | prompts_of("uncond", uncond_spec))
    sides = [
        place(settings, collector, rng, branch, spec, batch)
        for branch, spec in (("cond", cond_spec), ("uncond", uncond_spec))
    ]
    product = [
        [entry_maps(collector, key, area=area, weight=weight) for key, area, weight in side] for side, _ in sides
    ]
    segmentation = segment_entries(*product, settings, latent)
    (_, cond), (_, uncond) = sides
    for image in range(batch):
        expected = oracle.segment_entries(cond[image], uncond[image], settings, (latent.h, latent.w))
        assert_segmented(segmentation, expected, image)
    return segmentation


FULL = [(None, Grid(8, 6), 5, None)]


@pytest.mark.parametrize("name", AREAS)
@BOTH
def test_several_positive_entries_equal_the_oracle(settings, name):
    segmentation = placed(settings, 40, AREAS[name], FULL, batch=2)
    assert segmentation.num_labels == sum(tokens for _, _, tokens, _ in AREAS[name])


@pytest.mark.parametrize("name", AREAS)
@BOTH
def test_several_negative_entries_equal_the_oracle(settings, name):
    placed(settings, 41, FULL, AREAS[name])


def test_every_entry_wins_somewhere_in_its_area():
    """Labels of an entry start after those of the entries before it."""
    segmentation = placed(PAPER, 42, AREAS["left_and_right"], FULL)
    left, right = segmentation.labels[0, :, :3], segmentation.labels[0, :, 3:]
    assert left.max() < 5 and right.min() >= 5 and right.max() < 9


def test_patch_that_no_entry_wants_belongs_to_nobody():
    segmentation = placed(PAPER, 43, AREAS["mask_with_a_hole"], FULL)
    assert (segmentation.labels[0, :, 3] == -1).all()
    assert (segmentation.labels[0, 0, 4:] == -1).all()
    assert (segmentation.labels[0, :, :2] >= 0).all()


def test_one_entry_gives_the_single_prompt_back():
    """With and without a weight: a constant weight is no weight."""
    blocks = blocks_of(rng_of(44), 2, 8)
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 8)
    collector.begin(prompts)
    feed(collector, blocks, rows)
    plain = gathered(collector, PAPER, LATENT)
    weighted = segment_entries(
        [entry_maps(collector, "positive", weight=torch.full((16, 16), 0.3))],
        [entry_maps(collector, "negative", weight=torch.full((1, 16, 16), 4.0))],
        PAPER,
        LATENT,
    )
    assert same(plain, weighted)
    assert_segmented(plain, oracle.segment(maps_of(blocks, 1, 8), maps_of(blocks, 0, 8), PAPER))


def test_weight_of_each_image_counts_for_that_image():
    rng, grid = rng_of(45), Grid(6, 7)
    first, second = (blocks_of(rng, 2, tokens, [grid]) for tokens in (5, 4))
    (negative,) = blocks_of(rng, 2, 5, [grid])
    collector = Collector(PAPER)
    prompts = number_labels([Prompt.plain("cond", 5), Prompt.plain("cond", 4)])
    collector.begin({"a": prompts[0], "b": prompts[1], "n": Prompt.plain("uncond", 5)})
    for key, blocks in (("a", first), ("b", second), ("n", [negative])):
        feed(collector, blocks, [Rows(key, slice(0, 2))])
    weight = torch.zeros(2, 12, 14)
    weight[0, :, :6] = 1
    weight[1, 4:, :] = 1
    segmentation = segment_entries(
        [
            entry_maps(collector, "a", weight=weight),
            entry_maps(collector, "b", weight=1 - weight),
        ],
        [entry_maps(collector, "n")],
        PAPER,
        Grid(12, 14),
    )
    of_first = segmentation.labels < 5
    assert of_first[0].equal(torch.tensor([[True] * 3 + [False] * 4] * 6))
    assert of_first[1].equal(torch.tensor([[False] * 7] * 2 + [[True] * 7] * 4))


def test_first_entry_wins_a_tie():
    blocks = blocks_of(rng_of(46), 1, 5, [Grid(6, 7)])
    collector = Collector(PAPER)
    first, second = number_labels([Prompt.plain("cond", 5), Prompt.plain("cond", 5)])
    collector.begin({"a": first, "b": second, "n": Prompt.plain("uncond", 5)})
    for key in ("a", "b", "n"):
        feed(collector, blocks, [Rows(key, slice(0, 1))])
    a, b, n = (entry_maps(collector, key) for key in ("a", "b", "n"))
    assert segment_entries([a, b], [n], PAPER, LATENT).labels.max() < 5


def test_entry_fed_in_parts_equals_the_entry_fed_at_once():
    settings, tokens = DEFAULT, 6
    blocks = blocks_of(rng_of(47), 6, tokens)
    usual = segmented(settings, blocks, 3, tokens)
    collector = Collector(settings)
    collector.begin(two_branches(3, tokens)[0])
    for row in (5, 0, 3, 1, 4, 2):
        key, image = ("positive", row - 3) if row >= 3 else ("negative", row)
        feed(collector, [block.rows([row]) for block in blocks], [Rows(key, slice(0, 1), image)])
    assert same(gathered(collector, settings, LATENT), usual)


def test_rows_without_an_entry_are_ignored():
    blocks = blocks_of(rng_of(48), 3, 6)
    collector = Collector(PAPER)
    prompts, _ = two_branches(1, 6)
    collector.begin(prompts)
    feed(collector, blocks, [Rows("negative", slice(0, 1)), Rows("positive", slice(2, 3))])
    assert same(
        gathered(collector, PAPER, LATENT), segmented(PAPER, [block.rows([0, 2]) for block in blocks], 1, 6)
    )


def test_grid_of_areas_alone_covers_the_latent():
    """No entry is everywhere: the largest one's patches, carried on over an odd latent, 33·4/16 → 9 rows."""
    small = (Area(21, 8, 12, 8), Grid(3, 2), 6, None)
    large = (Area(0, 0, 16, 24), Grid(4, 6), 5, None)
    segmentation = placed(PAPER, 49, [small, large], [large, small], latent=Grid(33, 24))
    assert segmentation.grid == Grid(9, 6)


def test_area_beside_a_negative_whose_rounding_differs():
    """33 of 65 rows are 5 patches, all are 9, not 5·65/33 → 10: the grid of the entry that sees all counts."""
    cond = [(Area(0, 0, 33, 24), Grid(5, 6), 5, None), (Area(33, 0, 32, 24), Grid(4, 6), 6, None)]
    segmentation = placed(PAPER, 50, cond, [(None, Grid(9, 6), 5, None)], latent=Grid(65, 24))
    assert segmentation.grid == Grid(9, 6)


@pytest.mark.parametrize("name", ["paper", "authors", "argmax_foreground"])
def test_entry_of_both_branches_keeps_what_either_needs(name):
    """One prompt that a guider uses on both sides is propagated once."""
    settings = SETTINGS[name]
    blocks = blocks_of(rng_of(51), 1, 6)
    collector = Collector(settings)
    collector.begin({branch: Prompt.plain(branch, 6) for branch in ("cond", "uncond", "both")})
    for branch in ("cond", "uncond", "both"):
        feed(collector, blocks, [Rows(branch, slice(0, 1))])
    torch.testing.assert_close(collector.token_maps("both").values, collector.token_maps("cond").values)
    torch.testing.assert_close(collector.foreground_maps("both").values, collector.token_maps("uncond").values)
