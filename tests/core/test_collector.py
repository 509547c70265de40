"""The streaming side: however q and k come in, the labels are those of the maps."""

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from cases import (
    AUTHORS,
    BUDGETS,
    DEFAULT,
    PAPER,
    SETTINGS,
    array,
    assert_segmented,
    cross_call,
    entry_maps,
    feed,
    gathered,
    maps_of,
    pair,
    rng_of,
    segmented,
    self_call,
    tensor,
    two_branches,
)

from scfg_core import Area, Grid, LayerMaps, Prompt, segment, segment_entries
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector
from scfg_core.prompt import number_labels

GRIDS = [Grid(6, 7), Grid(3, 4)]
LATENT = Grid(16, 16)
BOTH = pytest.mark.parametrize("settings", [PAPER, AUTHORS], ids=["paper", "authors"])


def blocks_of(rng, rows, tokens, grids=GRIDS):
    return [pair(rng, f"block{index}", grid, rows, tokens) for index, grid in enumerate(grids)]


def same(one, other):
    return one.labels.equal(other.labels) and one.foreground.equal(other.foreground)


# ---- one positive, one negative entry ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("patches", "hard_cap", "two_fifths")])
def test_collected_labels_equal_the_oracle(name):
    rng, tokens, settings = rng_of(20), 11, SETTINGS[name]
    blocks = blocks_of(rng, 4, tokens)
    segmentation = segmented(settings, blocks, 2, tokens)
    for image in range(2):
        expected = oracle.segment(maps_of(blocks, 2 + image, tokens), maps_of(blocks, image, tokens), settings)
        assert_segmented(segmentation, expected, image)


@pytest.mark.parametrize("tokens", [2, 77, 231])
@BOTH
def test_collected_labels_equal_those_of_stored_maps(settings, tokens):
    rng, batch = rng_of(21, tokens), 2
    blocks = blocks_of(rng, 2 * batch, tokens)
    stored = []
    for first in (0, batch):
        layers = []
        per_image = [maps_of(blocks, first + image, tokens) for image in range(batch)]
        for index, grid in enumerate(GRIDS):
            self_map = np.stack([maps[index][0] for maps in per_image])
            cross = np.stack([maps[index][1] for maps in per_image])
            layers.append(LayerMaps(tensor(self_map), tensor(cross), grid))
        stored.append(layers)
    uncond, cond = stored
    assert same(segmented(settings, blocks, batch, tokens), segment(cond, uncond, settings))


@BOTH
def test_each_image_of_a_batch_gives_what_it_gives_alone(settings):
    batch, tokens = 4, 9
    blocks = blocks_of(rng_of(22), 2 * batch, tokens)
    together = segmented(settings, blocks, batch, tokens)
    for image in range(batch):
        single = segmented(settings, [block.rows([image, batch + image]) for block in blocks], 1, tokens)
        assert single.labels[0].equal(together.labels[image])
        assert single.foreground[0].equal(together.foreground[image])


CALLS = {
    # every arrangement: a list of calls; a call is a list of (prompt, first image, images)
    "conditional_first": [[("positive", 0, 3), ("negative", 0, 3)]],
    "two_calls": [[("negative", 0, 3)], [("positive", 0, 3)]],
    "two_calls_reversed": [[("positive", 0, 3)], [("negative", 0, 3)]],
    "image_by_image": [[("positive", i, 1)] for i in range(3)] + [[("negative", i, 1)] for i in range(3)],
    "last_image_first": [[("positive", i, 1), ("negative", i, 1)] for i in (2, 0, 1)],
    "uneven_split": [[("negative", 0, 2), ("positive", 0, 1)], [("positive", 1, 2), ("negative", 2, 1)]],
    "interleaved": [[(entry, i, 1) for i in range(3) for entry in ("negative", "positive")]],
}


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
@pytest.mark.parametrize("arrangement", CALLS)
@BOTH
def test_arrangement_of_rows_changes_nothing(settings, arrangement, backend):
    batch, tokens = 3, 8
    blocks = blocks_of(rng_of(23), 2 * batch, tokens)
    usual = segmented(settings, blocks, batch, tokens)
    first_row = {"negative": 0, "positive": batch}
    collector = Collector(settings, budget_mib=BUDGETS[backend])
    collector.begin(two_branches(batch, tokens)[0])
    for call in CALLS[arrangement]:
        index, rows = [], []
        for key, first, images in call:
            rows.append(Rows(key, slice(len(index), len(index) + images), first))
            index += range(first_row[key] + first, first_row[key] + first + images)
        feed(collector, [block.rows(index) for block in blocks], rows)
    assert same(gathered(collector, settings, LATENT), usual)


def test_layers_in_another_order_give_the_same_labels():
    blocks = blocks_of(rng_of(24), 2, 8)
    assert same(segmented(PAPER, blocks, 1, 8), segmented(PAPER, blocks[::-1], 1, 8))


def test_self_attention_pairs_with_the_cross_attention_of_its_own_block():
    """attn1, attn1, attn2, attn2: the names pair them up, not the order."""
    blocks = blocks_of(rng_of(25), 2, 8)
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 8)
    collector.begin(prompts)
    for block in blocks:
        collector.observe(self_call(block, rows))
    for block in reversed(blocks):
        collector.observe(cross_call(block, rows))
    assert same(gathered(collector, PAPER, LATENT), segmented(PAPER, blocks, 1, 8))


def test_begin_forgets_the_last_evaluation():
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 8)
    for seed in (26, 27):
        blocks = blocks_of(rng_of(seed), 2, 8)
        collector.begin(prompts)
        feed(collector, blocks, rows)
        assert same(gathered(collector, PAPER, LATENT), segmented(PAPER, blocks, 1, 8))


def test_scale_of_the_host_is_used():
    blocks = blocks_of(rng_of(28), 2, 8, [Grid(6, 7)])
    collector = Collector(PAPER)
    prompts, rows = two_branches(1, 8)
    collector.begin(prompts)
    (block,) = blocks
    collector.observe(self_call(block, rows, scale=1.0))
    collector.observe(cross_call(block, rows, scale=0.5))
    shrunk = replace_scale(block)
    assert same(gathered(collector, PAPER, LATENT), segmented(PAPER, [shrunk], 1, 8))


def replace_scale(block):
    """The block whose usual scale, 8^−½, does what 1.0 and 0.5 do."""
    return replace(block, q=block.q * 8**0.5, cross_q=block.cross_q * 8**0.5 * 0.5)


# ---- lengths -----------------------------------------------------------------------------------------------


def repeated(block, times):
    return replace(block, cross_k=block.cross_k.repeat(1, 1, times, 1))


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
@pytest.mark.parametrize("tokens, times", [(77, 2), (154, 3), (5, 4)])
@BOTH
def test_repeated_tokens_are_folded(settings, tokens, times, backend):
    blocks = blocks_of(rng_of(29, tokens), 2, tokens)
    plain = segmented(settings, blocks, 1, tokens, budget_mib=BUDGETS[backend])
    assert same(
        segmented(settings, [repeated(block, times) for block in blocks], 1, tokens, budget_mib=BUDGETS[backend]),
        plain,
    )
    folded = maps_of([repeated(block, times) for block in blocks], 1, tokens)
    assert_segmented(plain, oracle.segment(folded, maps_of(blocks, 0, tokens), settings))


def test_entries_of_different_length_share_a_call_by_repeats():
    """154 positive and 231 negative tokens meet at 462, as a host pads them."""
    rng = rng_of(30)
    (negative,), (positive,) = blocks_of(rng, 1, 231, [Grid(5, 6)]), blocks_of(rng, 1, 154, [Grid(5, 6)])
    long_negative, long_positive = repeated(negative, 2), repeated(positive, 3)
    joined = [
        torch.cat([getattr(long_negative, part), getattr(long_positive, part)])
        for part in ("q", "k", "cross_q", "cross_k")
    ]
    starts = {"positive": (0, 77), "negative": (0, 77, 154)}
    prompts = {
        "positive": Prompt.plain("cond", 154, starts["positive"]),
        "negative": Prompt.plain("uncond", 231, starts["negative"]),
    }
    collector = Collector(PAPER)
    collector.begin(prompts)
    rows = [Rows("negative", slice(0, 1)), Rows("positive", slice(1, 2))]
    feed(collector, [type(positive)("block", Grid(5, 6), *joined)], rows)
    segmentation = gathered(collector, PAPER, LATENT)
    expected = oracle.segment(maps_of([positive], 0, 154), maps_of([negative], 0, 231), PAPER, (0, 77))
    assert not (set(segmentation.labels.unique().tolist()) & {77})
    assert np.array_equal(segmentation.labels[0].numpy()[~expected.tied], expected.labels[~expected.tied])
    foreground, _, _ = oracle.foreground_of(maps_of([negative], 0, 231), PAPER, starts["negative"])
    assert np.array_equal(segmentation.foreground[0].numpy().ravel(), foreground)


@pytest.mark.parametrize("name", ["paper", "authors", "argmax_foreground", "argmax_foreground_per_layer"])
@pytest.mark.parametrize("tokens, starts", [(231, (0, 77, 154)), (12, (2, 7)), (12, (5,)), (12, (0, 1))])
def test_starts_of_several_chunks_are_one(name, tokens, starts):
    settings = SETTINGS[name]
    blocks = blocks_of(rng_of(31, tokens), 2, tokens)
    segmentation = segmented(settings, blocks, 1, tokens, start_tokens=starts)
    expected = oracle.segment(maps_of(blocks, 1, tokens), maps_of(blocks, 0, tokens), settings, starts)
    assert_segmented(segmentation, expected)


def test_an_encoder_without_start_measures_against_all():
    blocks = blocks_of(rng_of(32), 2, 6)
    segmentation = segmented(PAPER, blocks, 1, 6, start_tokens=())
    assert segmentation.foreground.all() and not segmentation.has_foreground.any()
    assert_segmented(segmentation, oracle.segment(maps_of(blocks, 1, 6), maps_of(blocks, 0, 6), PAPER, ()))


def test_token_maps_hold_what_their_branch_needs():
    blocks = blocks_of(rng_of(33), 2, 6)
    for rule, columns in (("start_vs_rest", 2), ("argmax", 6)):
        collector = Collector(replace(PAPER, foreground_rule=rule))
        prompts, rows = two_branches(1, 6)
        collector.begin(prompts)
        feed(collector, blocks, rows)
        assert collector.token_maps("positive").values.shape == (1, 42, 6)
        assert collector.token_maps("negative").values.shape == (1, 42, columns)


# ---- the joint form ----------------------------------------------------------------------------------------


LAYOUTS = {
    # name: order of the parts of the keys; "other" keys are neither text nor image
    "text_first": ("text", "image"),
    "image_first": ("image", "text"),
    "more_keys": ("other", "text", "image"),
}


def joint_layers(settings, collector, rows, layout, tokens, repeats=1, loud=0.0):
    """Feed GRIDS as joint layers; returns every row's layers as the oracle takes them."""
    rng, count = rng_of(34), max(part.rows.stop for part in rows)
    layers = [[] for _ in range(count)]
    for index, grid in enumerate(GRIDS):
        lengths, places, end = {"text": tokens * repeats, "image": grid.area, "other": 3}, {}, 0
        for part in LAYOUTS[layout]:
            places[part] = slice(end, end + lengths[part])
            end += lengths[part]
        text, image = places["text"], places["image"]
        q = 1.5 * rng.standard_normal((count, 2, grid.area, 8)) + 1
        k = 1.5 * rng.standard_normal((count, 2, end, 8))
        if repeats > 1:
            k[:, :, text] = np.tile(k[:, :, text.start : text.start + tokens], (1, 1, repeats, 1))
        k[:, :, text] += loud  # q leans to +1: louder text takes more of the softmax
        q, k = tensor(q), tensor(k)
        keys = Layout(end, range(text.start, text.stop), range(image.start, image.stop))
        collector.observe(LayerCall(f"block{index}", q, k, rows, grid, keys))
        for row in range(count):
            self_map, cross = oracle.split_joint(
                oracle.head_mean(array(q[row]), array(k[row])), text, image, settings.renormalise == "after_fusion"
            )
            layers[row].append((self_map, oracle.fold_repeats(cross, tokens), (grid.h, grid.w)))
    return layers


@pytest.mark.parametrize("backend", ["stored", "matrix_free", "auto"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["paper", "authors", "uneven_powers", "argmax_foreground", "no_self_attention"])
def test_joint_form_equals_the_oracle(name, layout, backend):
    settings, tokens, batch = SETTINGS[name], 7, 2
    collector = Collector(settings, budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(batch, tokens)
    collector.begin(prompts)
    layers = joint_layers(settings, collector, rows, layout, tokens)
    segmentation = gathered(collector, settings, LATENT)
    for one in range(batch):
        assert_segmented(segmentation, oracle.segment(layers[batch + one], layers[one], settings), one)


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
@BOTH
def test_joint_form_folds_repeated_tokens(settings, backend):
    collector = Collector(settings, budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(1, 5)
    collector.begin(prompts)
    layers = joint_layers(settings, collector, rows, "text_first", 5, repeats=3)
    assert collector.token_maps("positive").values.shape[2] == 5
    assert_segmented(gathered(collector, settings, LATENT), oracle.segment(layers[1], layers[0], settings))


@pytest.mark.parametrize("backend", ["stored", "matrix_free"])
def test_joint_form_holds_when_text_takes_nearly_all(backend):
    """Rows of S that sum to 1 % and less are still divided by what they sum to, not by what is left of 1."""
    collector = Collector(PAPER, budget_mib=BUDGETS[backend])
    prompts, rows = two_branches(1, 5)
    collector.begin(prompts)
    layers = joint_layers(PAPER, collector, rows, "text_first", 5, loud=1.0)
    assert_segmented(gathered(collector, PAPER, LATENT), oracle.segment(layers[1], layers[0], PAPER))
    for row, key in enumerate(("negative", "positive")):
        columns = (lambda cross: oracle.start_and_rest(cross, (0,))) if row == 0 else (lambda cross: cross)
        expected, _ = oracle.fuse(layers[row], PAPER, columns, 0.0)
        error = np.abs(array(collector.token_maps(key).values[0]) - expected).max()
        assert error <= 1e-6 * np.abs(expected).max()


# ---- several entries ---------------------------------------------------------------------------------------


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
