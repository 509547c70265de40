"""Images of a run: names, colours and sizes are right, and nothing covers anything."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import views
from scfg_core import Prompt
from scfg_core.prompt import number_labels
from scfg_core.run.record import Run
from views.canvas import GAP, enlarge, frame
from views.chart import ticks
from views.curves import region_norms, spread
from views.legend import legend
from views.owners import Share, colours_of, owners_of, shares_of
from views.palette import NOBODY, PADDING, START, WORDS, diverging, word_colour
from views.scale_map import heat, span_of
from views.segmentation import label_picture, spread_out
from views.text import font_for, height_of, one_line, shorten, width_of, write


def owner_named(run: Run, text: str):
    return next(owner for owner in owners_of(run) if owner.text == text)


def test_tokens_of_a_word_are_one_owner_and_start_end_padding_one_each(run):
    found = [(owner.text, owner.labels) for owner in owners_of(run)]
    assert found == [
        ("no word (start)", (0,)),
        ("astro", (1, 2)),
        ("<b>", (3,)),
        ("no word (end)", (4,)),
        ("no word (padding)", (5, 6)),
        ("no prompt", (-1,)),
    ]


def test_start_and_padding_are_neutral_and_words_are_not(run):
    assert owner_named(run, "no word (start)").colour == START
    assert owner_named(run, "no word (padding)").colour == PADDING
    assert {owner_named(run, word).colour for word in ("astro", "<b>")} == set(WORDS[:2])


def test_a_word_keeps_its_colour_whatever_the_step_shows(run):
    colours = {owner.text: owner.colour for owner in owners_of(run)}
    run.evaluations = run.evaluations[1:]
    run.evaluations[0].labels[:] = 3
    assert {owner.text: owner.colour for owner in owners_of(run)} == colours


def prompt(*words):
    return Prompt.plain("cond", len(words), (), words, range(len(words)))


def named(*texts: str):
    """Owners of a prompt of these words, a token each."""
    run = Run(prompts=[prompt(*texts)])
    return [(owner.text, owner.labels) for owner in owners_of(run)[:-1]]


def test_little_words_go_with_the_word_after_them():
    found = named("A", "red", "horse", ",", "and", "a", "dog", "on", "the", "grass")
    assert found == [("A red", (0, 1)), ("horse", (2,)), ("a dog", (3, 4, 5, 6)), ("on the grass", (7, 8, 9))]


def test_little_words_at_the_end_go_with_the_last_and_alone_they_stay():
    assert named("horse", "with", "a") == [("horse with a", (0, 1, 2))]
    assert named("of", "the") == [("of the", (0, 1))]
    assert named("...") == [("...", (0,))]


def test_little_words_take_no_colour_from_the_others():
    run = Run(prompts=[prompt("a", "horse", "on", "grass")])
    assert [owner.colour for owner in owners_of(run)][:2] == list(WORDS[:2])


def test_colour_names_get_their_own_colour():
    words = prompt("horse", "red", "sky", "Blue", "red")
    colours = [owner.colour for owner in owners_of(Run(prompts=[words]))][:5]
    assert colours[1] == WORDS[5]
    assert colours[3] == WORDS[4]
    assert len(set(colours)) == 5


def test_a_phrase_that_names_a_colour_looks_like_it():
    words = Prompt.plain("cond", 3, (), ("a blue house", "a blue house", "snow"), (0, 0, 1))
    assert owners_of(Run(prompts=[words]))[0].colour == WORDS[4]


def test_repeated_words_and_a_second_prompt_are_told_apart():
    prompts = number_labels([prompt("cat", "cat"), prompt("cat")])
    found = [(owner.text, owner.labels) for owner in owners_of(Run(prompts=prompts))]
    assert found == [("cat", (0,)), ("cat (2)", (1,)), ("cat (3)", (2,)), ("no prompt", (-1,))]


def test_without_words_tokens_are_numbered(run):
    run.prompts = []
    assert [owner.text for owner in owners_of(run)][:2] == ["token 0", "token 1"]


def test_many_words_have_many_colours():
    assert len({word_colour(index) for index in range(36)}) == 36


def test_areas_and_scales_of_the_legend_are_those_of_the_maps(run):
    last = run.evaluations[-1]
    shares = shares_of([last], owners_of(run), image=0)
    assert sum(share.area for share in shares) == pytest.approx(1)
    assert [share.area for share in shares] == sorted((share.area for share in shares), reverse=True)
    astro = next(share for share in shares if share.owner.text == "astro")
    mask = (last.labels[0] == 1) | (last.labels[0] == 2)
    assert astro.area == pytest.approx(float(mask.float().mean()))
    assert astro.scale == pytest.approx(5 * float(last.ratio[0][mask].mean()))


@pytest.mark.parametrize("image", [0, 1])
def test_segmentation_shows_its_map_uncovered_beside_the_legend(run, image):
    drawn = views.segmentation(run, image=image, longest=240)
    assert drawn.dtype == np.uint8
    expected = frame(label_picture(run.evaluations[-1].labels[image].numpy(), owners_of(run), 160, 240))
    assert np.array_equal(drawn[GAP : GAP + 162, GAP : GAP + 242], expected)
    assert drawn.shape[1] > 242 + 2 * GAP + 100


def test_label_map_has_the_owners_colours_and_no_line_inside_a_word(run):
    owners = owners_of(run)
    labels = np.array([[1, 2], [1, -1]])
    drawn = label_picture(labels, owners, 20, 20)
    astro = np.array(owner_named(run, "astro").colour)
    assert (drawn[:10] == astro)[:9].all()
    assert (drawn[15, 15] == NOBODY).all()


def test_overlay_keeps_the_picture_visible(run):
    base = np.zeros((8, 8, 3), dtype=np.uint8)
    base[:, 4:] = 255
    labels = np.full((2, 2), 3)
    drawn = label_picture(labels, owners_of(run), 16, 16, base=base)
    assert drawn[8, 12].sum() > drawn[8, 2].sum() + 100


def test_unknown_labels_are_drawn_as_nobodys(run):
    assert (colours_of(owners_of(run))[0] == NOBODY).all()


def test_sheet_has_a_tile_per_step(run):
    small = views.segmentation_sheet(run, indices=[0], longest=60)
    large = views.segmentation_sheet(run, longest=60)
    assert large.shape[1] - small.shape[1] == 2 * (62 + GAP)
    assert spread_out(30, 4) == [0, 10, 19, 29]


def test_long_legends_are_summed_up(run):
    owner = owner_named(run, "<b>")
    shares = [Share(replace(owner, text=str(i)), 0.05, float(i)) for i in range(20)]
    line = height_of() + 4
    assert legend(shares, most_rows=6).shape[0] == 7 * line
    assert legend(shares[:3]).shape[0] == 4 * line


def test_scale_map_is_white_where_guidance_is_plain_and_red_where_stronger(run):
    drawn = heat(np.array([[1.0, 2.0], [0.5, 1.0]]), np.log(2), 2, 2).astype(int)
    assert (drawn[0, 0] == diverging(np.zeros(1))[0]).all()
    assert drawn[0, 1, 0] > drawn[0, 1, 2] + 50
    assert drawn[1, 0, 2] > drawn[1, 0, 0] + 50


@pytest.mark.parametrize("height", [40, 256])
def test_scale_map_has_a_colour_bar_beside_it(run, height):
    drawn = views.scale_map(run.evaluations[0], longest=height)
    assert drawn.shape[1] > height + 2 + 3 * GAP + 30
    assert drawn.shape[2] == 3


def test_extreme_ratios_are_drawn(run):
    wild = replace(run.evaluations[0], ratio=torch.tensor([0.0, 1.0, 1e9, 1.0]).repeat(2, 1, 6).reshape(2, 4, 6))
    assert views.scale_map(wild).dtype == np.uint8


def test_curves_follow_the_regions_of_the_last_evaluation(run):
    norms = region_norms(run, image=1, smallest_area=0)
    mask = owner_named(run, norms.owners[0].text).mask(run.evaluations[-1].labels[1].numpy())
    for index, each in enumerate(run.evaluations):
        assert norms.classifier[index, 0] == pytest.approx(each.classifier[1].numpy()[mask].mean(), rel=1e-5)
        assert norms.rescaled[index, 0] == pytest.approx(each.rescaled[1].numpy()[mask].mean(), rel=1e-5)
    assert views.curves(run).shape[2] == 3


def test_one_evaluation_can_be_drawn(run):
    run.evaluations = run.evaluations[:1]
    assert views.curves(run).dtype == np.uint8


def test_a_run_whose_grid_changes_is_drawn(run):
    """Deep Shrink: the first steps see fewer patches."""
    first = run.evaluations[0]
    shrunk = {"labels", "foreground", "classifier", "rescaled", "diffusion", "ratio"}
    coarse = replace(first, **{name: getattr(first, name)[:, ::2, ::2] for name in shrunk})
    expected = region_norms(run, smallest_area=0)
    run.evaluations = [coarse, *run.evaluations[1:]]
    norms = region_norms(run, smallest_area=0)
    assert np.array_equal(norms.classifier[1:], expected.classifier[1:])
    assert views.curves(run).dtype == views.segmentation_sheet(run).dtype == np.uint8


def test_shares_of_several_steps_are_those_of_all_their_places(run):
    (share, *_), ratios = shares_of(run.evaluations, owners_of(run)), []
    masks = [share.owner.mask(each.labels[0].numpy()) for each in run.evaluations]
    for each, mask in zip(run.evaluations, masks, strict=True):
        ratios.append(each.ratio[0].numpy()[mask] * each.guidance_scale)
    assert share.area == pytest.approx(np.mean(masks))
    assert share.scale == pytest.approx(np.concatenate(ratios).mean(), rel=1e-5)


def test_a_word_without_guidance_leaves_the_others_their_colours(run):
    ratio = torch.full((2, 4, 6), 1.3)
    ratio[:, 0] = 0.0
    assert span_of(ratio[0].numpy()) == pytest.approx(np.log(8))


def test_norms_that_are_not_finite_are_gaps(run):
    """What half precision that overflowed leaves behind."""
    broken = replace(run.evaluations[0], classifier=torch.full_like(run.evaluations[0].classifier, torch.inf))
    run.evaluations = [broken, *run.evaluations[1:]]
    assert views.curves(run).dtype == np.uint8
    run.evaluations = [replace(each, classifier=broken.classifier) for each in run.evaluations]
    assert views.curves(run).dtype == np.uint8
    assert spread(np.array([[np.inf, 1.0], [1.0, 3.0]]), np.array([0.5, 0.5])) == pytest.approx(0.5)


def test_spread_is_zero_for_equal_regions_and_weighs_by_area():
    equal = np.ones((3, 2))
    assert spread(equal, np.array([0.5, 0.5])) == 0
    assert spread(np.array([[1.0, 3.0]]), np.array([0.5, 0.5])) == pytest.approx(0.5)
    assert spread(np.array([[1.0, 3.0]]), np.array([0.999, 0.001])) < 0.07


@pytest.mark.parametrize("high", [0.003, 0.04, 0.99, 1.0, 7.0, 30.0, 1234.0])
def test_axes_have_a_few_round_numbers(high):
    marks = ticks(0, high)
    assert 2 <= len(marks) <= 6
    assert marks[0] == 0
    assert marks[-1] <= high


def test_markup_and_line_breaks_in_words_are_text():
    assert one_line("<b>x</b>\n\x1b[31m&amp;") == "<b>x</b>  [31m&amp;"
    assert width_of("<b>x</b>") > 3 * width_of("x")
    lines = np.full((3 * height_of(), 200, 3), 255, dtype=np.uint8)
    write(lines, 0, 0, "a\nb")
    assert (lines[height_of() :] == 255).all()


def test_long_words_are_cut_to_their_place():
    short = shorten("w" * 200, 100)
    assert width_of(short) <= 100
    assert short.endswith("...")
    assert shorten("horse", 100) == "horse"


def test_a_letter_that_no_font_has_is_still_drawn():
    assert font_for("horse").getname()[0] == font_for("\U0010fffd").getname()[0]


def test_enlarging_takes_the_nearest_cell_by_whole_numbers():
    cells = np.arange(3)[:, None].repeat(2, axis=1)
    assert enlarge(cells, 7, 3)[:, 0].tolist() == [0, 0, 0, 1, 1, 2, 2]
