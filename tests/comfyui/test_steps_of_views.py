"""Which step a view shows: counted from 1, the last where nothing is chosen, and only where one is asked for."""

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

STEPS, SIDE = 6, 4


@pytest.fixture(scope="module")
def parts(pack):
    wanted = {"mask": "nodes.token_mask", "images": "nodes.images", "record": "scfg_core.run.record"}
    wanted |= {"prompt": "scfg_core.prompt", "grid": "scfg_core.grid", "fingerprint": "scfg_core.run.fingerprint"}
    return SimpleNamespace(
        **{key: importlib.import_module(f"{pack.__name__}.{path}") for key, path in wanted.items()}
    )


def a_run(parts, every=1, soft=1):
    """`cat` is in the left half at step 1, in one row more at every step after it."""
    prompts = [parts.prompt.Prompt.plain("cond", 2, (0,), ("<start>", "cat"), (-1, 0))]
    latent = parts.fingerprint.Fingerprint.of(torch.zeros(1, 4, SIDE, SIDE))
    schedule = tuple(range(STEPS, -1, -1))
    run = parts.record.Run(prompts=prompts, schedule=schedule, token_count=1, fingerprint=latent)
    run.token_sums, run.token_grid = {(0, 1): torch.rand(1, SIDE**2, 2)}, parts.grid.Grid(SIDE, SIDE)
    for step in range(0, STEPS, every):
        labels = torch.zeros(1, SIDE, SIDE, dtype=torch.int16)
        labels[..., : SIDE // 2] = 1
        labels[:, : step // 2] = 1
        ones = torch.ones(1, SIDE, SIDE)
        kept = torch.stack([1.0 - labels.flatten(1).float(), labels.flatten(1).float()], dim=-1)
        run.evaluations.append(
            parts.record.Evaluation(
                *(step, float(STEPS - step), 5.0, labels, ones > 0, ones, ones, ones, ones),
                soft=kept if step % soft == 0 else None,
                soft_labels=((0, 1),) if step % soft == 0 else (),
            )
        )
    return run


def test_steps_count_from_one(parts):
    run = a_run(parts)
    assert [parts.images.evaluation_at(run, step) for step in (1, 2, STEPS, -1)] == [0, 1, STEPS - 1, STEPS - 1]
    for step in (0, STEPS + 1):
        with pytest.raises(ValueError, match=f"expected a step from 1 to {STEPS}, got {step}"):
            parts.images.evaluation_at(run, step)


def test_of_a_long_run_the_nearest_step_that_was_kept_is_shown(parts):
    run = a_run(parts, every=2)
    assert [parts.images.evaluation_at(run, step) for step in (1, 3, 4, 5)] == [0, 1, 2, 2]


@pytest.mark.parametrize("step", [0, 25, -1])
def test_a_mask_over_all_steps_does_not_ask_for_one(parts, step):
    mask = parts.mask.token_mask(a_run(parts), "cat", "soft", parts.mask.AVERAGE, step, 0, None)
    assert mask.shape == (1, SIDE * 8, SIDE * 8)


def hard_mask(parts, run, words="cat", over="one step", scope="phrase"):
    """(SIDE, SIDE) of the last step, or of all."""
    return parts.mask.token_mask(run, words, "hard", over, -1, 0, None, scope)[0, ::8, ::8]


def with_stray_block(parts):
    """A run of "a red cat" in whose last step "red" wins on the left half, but for a stray patch of "cat" there."""
    run = a_run(parts, soft=STEPS)
    texts, words = ("<start>", "a", "red", "cat"), (-1, 0, 1, 2)
    run.prompts = [parts.prompt.Prompt.plain("cond", 4, (0,), texts, words)]
    last = run.evaluations[-1].labels
    last.zero_()
    last[..., :2], last[0, 1, 1], last[0, 3, 3] = 2, 3, 3
    scores = torch.zeros(1, SIDE**2, 4)
    scores.scatter_(2, last.flatten(1)[..., None].long(), 4.0)
    run.token_sums = {(0, 1, 2, 3): scores}
    return run


@pytest.mark.parametrize("over", ["one step", "average of all steps"])
def test_a_hard_mask_is_of_the_phrase_or_of_the_word(parts, over):
    run = with_stray_block(parts)
    run.min_region = 0.0
    left, alone = torch.zeros(SIDE, SIDE), torch.zeros(SIDE, SIDE)
    left[:, :2] = left[3, 3] = alone[1, 1] = alone[3, 3] = 1
    assert torch.equal(hard_mask(parts, run, over=over), left)
    assert torch.equal(hard_mask(parts, run, over=over, scope="word"), alone)


def test_stray_blocks_are_dropped_unless_the_run_keeps_them(parts):
    run = with_stray_block(parts)
    run.min_region = 0.1
    assert hard_mask(parts, run)[3, 3] == 0 and hard_mask(parts, run).sum() == 8
    run.min_region = 0.0
    assert hard_mask(parts, run)[3, 3] == 1


def test_recorded_soft_maps_of_a_step_say_which_phrase_wins_there(parts):
    run = with_stray_block(parts)
    run.min_region = 0.0
    before = hard_mask(parts, run)
    scores = run.token_sums[(0, 1, 2, 3)].clone()
    scores[:, 5, 0] = 3.0  # START between "cat", 4, and the mean of "red cat", 2
    run.evaluations[-1] = replace(run.evaluations[-1], soft=scores, soft_labels=((0, 1, 2, 3),))
    after = hard_mask(parts, run)
    assert before[1, 1] == 1 and after[1, 1] == 0
    assert (before != after).sum() == 1


def test_a_function_word_has_no_phrase_and_the_error_offers_words_that_have(parts):
    with pytest.raises(ValueError, match="expected words of the prompt, got 'a': use some of red, cat"):
        hard_mask(parts, with_stray_block(parts), words="a")
    assert hard_mask(parts, with_stray_block(parts), words="a", scope="word").sum() == 0


def test_a_step_that_brought_no_maps_shows_the_last_ones_before_it(parts):
    run = a_run(parts, soft=2)
    masks = [parts.mask.token_mask(run, "cat", "soft", parts.mask.ONE, step, 0, None) for step in (5, 6, -1)]
    assert torch.equal(masks[0], masks[1]) and torch.equal(masks[1], masks[2])
    assert not torch.equal(masks[0], parts.mask.token_mask(run, "cat", "soft", parts.mask.ONE, 1, 0, None))
