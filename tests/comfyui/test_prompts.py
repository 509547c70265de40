"""Which rows belong to which prompt: lengths, combination, areas, masks, batches that the host cuts or joins."""

import numpy as np
import pytest
import torch

from scfg_core import Note
from scfg_core.run.words import labels_of

from . import host
from .expected import Prompt, check, host_weight, scfg
from .probe import Probe

H, W = 24, 40
A, B, C, EMPTY = (host.tokens(seed) for seed in (1, 2, 3, 4))
TOP, RIGHT = (16, 40, 0, 0), (24, 20, 0, 20)


def left_half() -> torch.Tensor:
    """A mask (1, H, W) that ebbs away to the right."""
    return torch.linspace(1, 0, W).repeat(1, H, 1)


def guided_run(model, positive, negative, expected, against, *, image=None, evaluations=None, **how):
    """A guided run of these conditionings, checked against the entries that a test expects."""
    with Probe(model) as probe:
        guided = scfg(probe.patcher)
        host.ksample(guided.model, positive, negative, image or host.latent(H, W, 2), **how)
    check(probe, guided, expected, against, evaluations=evaluations)
    return probe, guided


@pytest.mark.parametrize("negative", [77, 154, 231])
@pytest.mark.parametrize("positive", [77, 154, 231])
def test_prompts_of_different_lengths(sd15, positive, negative):
    text, empty = host.tokens(1, positive), host.tokens(4, negative)
    _, guided = guided_run(
        sd15, host.conditioning(text), host.conditioning(empty), [Prompt(text)], [Prompt(empty)], evaluations=[1]
    )
    assert f"{positive} tokens" in guided.line


def test_a_length_that_is_no_multiple_of_77_has_one_start(sd15):
    text, empty = host.tokens(1, 20), host.tokens(4, 30)
    guided_run(sd15, host.conditioning(text), host.conditioning(empty), [Prompt(text)], [Prompt(empty)])


def test_a_prompt_for_every_image_of_the_batch(sd15):
    text = host.tokens(1, images=3)
    guided_run(
        sd15,
        host.conditioning(text),
        host.conditioning(EMPTY),
        [Prompt(text)],
        [Prompt(EMPTY)],
        image=host.latent(H, W, 3),
    )


@pytest.mark.parametrize("texts", [(A, B), (A, B, C), (A, host.tokens(2, 154))], ids=["two", "three", "77 and 154"])
def test_combined_prompts_compete_for_every_patch(sd15, texts):
    positive = [entry for text in texts for entry in host.conditioning(text)]
    expected = [Prompt(text, None, host_weight((H, W))) for text in texts]
    probe, guided = guided_run(sd15, positive, host.conditioning(EMPTY), expected, [Prompt(EMPTY)])
    assert f"{len(texts)} prompts" in guided.line
    firsts = np.cumsum([0, *(text.shape[1] for text in texts)])
    assert all(np.histogram(guided.run.evaluations[0].labels, firsts)[0] > 0)


def test_combined_prompts_count_as_much_as_their_strength(sd15):
    positive = host.conditioning(A) + host.conditioning(B, strength=0.5)
    expected = [Prompt(A, None, host_weight((H, W))), Prompt(B, None, host_weight((H, W), strength=0.5))]
    guided_run(sd15, positive, host.conditioning(EMPTY), expected, [Prompt(EMPTY)])


def test_combined_negatives_share_the_foreground(sd15):
    negative = host.conditioning(B) + host.conditioning(C, strength=0.25)
    against = [Prompt(B, None, host_weight((H, W))), Prompt(C, None, host_weight((H, W), strength=0.25))]
    guided_run(sd15, host.conditioning(A), negative, [Prompt(A)], against)


def test_areas_are_segmented_in_their_own_crop(sd15):
    positive = (
        host.conditioning(A) + host.conditioning(B, area=TOP) + host.conditioning(C, area=RIGHT, strength=2.0)
    )
    placed = [(None, 1.0), (TOP, 1.0), (RIGHT, 2.0)]
    expected = [
        Prompt(text, area, host_weight((H, W), area, strength))
        for text, (area, strength) in zip((A, B, C), placed, strict=True)
    ]
    against = [Prompt(EMPTY, area, host_weight((H, W), area, strength)) for area, strength in placed]
    guided_run(sd15, positive, host.conditioning(EMPTY), expected, against)


def test_what_no_area_covers_keeps_its_guidance(sd15):
    negative = host.conditioning(EMPTY)
    with Probe(sd15) as probe:
        guided = scfg(probe.patcher)
        host.ksample(guided.model, host.conditioning(A, area=TOP), negative, host.latent(H, W))
    labels, args = guided.run.evaluations[0].labels, probe.evaluations[0].args
    assert torch.all(labels[:, 4:] == -1)
    assert torch.all(labels[:, :4] >= 0)
    plain = args["uncond_denoised"] + 7.0 * (args["cond_denoised"] - args["uncond_denoised"])
    torch.testing.assert_close(args["denoised"][:, :, 17:], plain[:, :, 17:])
    assert not torch.allclose(args["denoised"][:, :, :16], plain[:, :, :16], rtol=0.01)


def test_masks_weigh_every_patch(sd15):
    mask = left_half()
    positive = host.conditioning(A, mask=mask) + host.conditioning(B, mask=1 - mask, mask_strength=0.7)
    expected = [
        Prompt(A, None, host_weight((H, W), mask=mask[0].numpy())),
        Prompt(B, None, host_weight((H, W), mask=1 - mask[0].numpy(), mask_strength=0.7)),
    ]
    guided_run(sd15, positive, host.conditioning(EMPTY), expected, [Prompt(EMPTY)])


def test_a_mask_within_an_area(sd15):
    mask = left_half()
    positive = host.conditioning(A) + host.conditioning(B, mask=mask, area=TOP)
    weight = host_weight((H, W), TOP, mask=mask[0].numpy())
    expected = [Prompt(A, None, host_weight((H, W))), Prompt(B, TOP, weight)]
    against = [Prompt(EMPTY, None, host_weight((H, W))), Prompt(EMPTY, TOP, weight)]
    guided_run(sd15, positive, host.conditioning(EMPTY), expected, against)


def test_a_mask_that_sets_the_area(sd15):
    mask = torch.zeros(1, H, W)
    mask[:, 4:20, 8:32] = 1
    box = (16, 24, 4, 8)
    positive = host.conditioning(A) + host.conditioning(B, mask=mask, set_area_to_bounds=True)
    weight = host_weight((H, W), box, mask=mask[0].numpy())
    expected = [Prompt(A, None, host_weight((H, W))), Prompt(B, box, weight)]
    against = [Prompt(EMPTY, None, host_weight((H, W))), Prompt(EMPTY, box, weight)]
    guided_run(sd15, positive, host.conditioning(EMPTY), expected, against)


def test_a_default_prompt_speaks_where_the_others_leave_room(sd15):
    mask = left_half()
    positive = host.conditioning(A, mask=mask) + host.conditioning(B, default=True)
    weight = mask[0].numpy()
    expected = [Prompt(A, None, host_weight((H, W), mask=weight)), Prompt(B, None, 1 - weight)]
    guided_run(sd15, positive, host.conditioning(EMPTY), expected, [Prompt(EMPTY)])


def test_a_default_prompt_without_room_is_not_run_and_not_missed(sd15):
    positive = host.conditioning(A) + host.conditioning(B, default=True)
    probe, _ = guided_run(
        sd15, positive, host.conditioning(EMPTY), [Prompt(A, None, host_weight((H, W)))], [Prompt(EMPTY)]
    )
    assert len(probe.evaluations[0].calls[0].x) == 4


def test_entries_take_turns_along_the_schedule(sd15):
    positive = host.conditioning(A, end_percent=0.4) + host.conditioning(B, start_percent=0.4)
    with Probe(sd15) as probe:
        guided = scfg(probe.patcher)
        host.ksample(guided.model, positive, host.conditioning(EMPTY), host.latent(H, W), steps=4)
    whole = host_weight((H, W))
    check(probe, guided, [Prompt(A, None, whole)], [Prompt(EMPTY)], evaluations=[0, 1])
    check(probe, guided, [Prompt(B, None, whole)], [Prompt(EMPTY)], evaluations=[2, 3], first_label=77)
    first, *_, last = guided.run.evaluations
    assert first.labels.max() < 77 <= last.labels.min()
    assert [each.first_label for each in guided.run.prompts] == [0, 77]
    assert guided.run.token_count == 4 and "2 prompts" in guided.line


def named(text, word, **keys):
    """A prompt of one word, as S-CFG Text Encode makes it."""
    words = {"scfg_words": (("<start>", word, *["<pad>"] * 75), (-1, 0, *[-1] * 75))}
    return host.conditioning(text, **words, **keys)


def test_words_of_prompts_that_take_turns_keep_their_weights_and_places(sd15):
    positive = named(A, "cat", end_percent=0.4) + named(B, "dog", start_percent=0.4)
    guided = scfg(sd15, word_weights={"cat": 1.5, "dog": 0.5})
    host.ksample(guided.model, positive, host.conditioning(EMPTY), host.latent(H, W), steps=4)
    assert not any("no word" in note for note in guided.run.notes)
    assert labels_of("cat", guided.run.prompts) == (1,) and labels_of("dog", guided.run.prompts) == (78,)


def test_a_counterpart_that_the_host_makes_has_the_words_of_its_text(sd15):
    """For a negative prompt with an area the host copies its entry to the other side, with the text there."""
    guided = scfg(sd15)
    host.ksample(guided.model, named(A, "cat"), named(EMPTY, "ugly", area=TOP), host.latent(H, W), steps=2)
    assert labels_of("ugly", guided.run.prompts) == () and len(guided.run.prompts) == 2
    assert labels_of("cat", guided.run.prompts) == (1, 78)


def test_a_text_that_another_node_shortens_on_its_way_is_left_out(sd15):
    def shorten(apply_model, args):
        c = args["c"] | {"c_crossattn": args["c"]["c_crossattn"][:, :64]}
        return apply_model(args["input"], args["timestep"], **c)

    model = sd15.clone()
    model.set_model_unet_function_wrapper(shorten)
    plain = host.ksample(model, host.conditioning(A), host.conditioning(EMPTY), host.latent(H, W))
    guided = scfg(model)
    assert torch.equal(
        host.ksample(guided.model, host.conditioning(A), host.conditioning(EMPTY), host.latent(H, W)), plain
    )
    assert Note.LAYER_SKIPPED.text in guided.line and "internal S-CFG error" not in guided.line


def test_little_memory_runs_every_prompt_apart(sd15, monkeypatch):
    joined, _ = guided_run(sd15, host.conditioning(A), host.conditioning(EMPTY), [Prompt(A)], [Prompt(EMPTY)])
    monkeypatch.setattr(type(sd15.model), "memory_required", lambda *_, **__: float("inf"))
    positive = host.conditioning(A) + host.conditioning(B)
    expected = [Prompt(text, None, host_weight((H, W))) for text in (A, B)]
    apart, _ = guided_run(sd15, positive, host.conditioning(EMPTY), expected, [Prompt(EMPTY)])
    assert [len(each.calls) for each in joined.evaluations] == [1, 1]
    assert [len(each.calls) for each in apart.evaluations] == [3, 3]


@pytest.mark.parametrize("order", ["split", "reversed"])
def test_chunks_that_another_node_splits_or_reverses_give_the_same_maps(sd15, order):
    def wrapper(apply_model, args):
        x, t, c, which = args["input"], args["timestep"], args["c"], args["cond_or_uncond"]
        options, parts = c["transformer_options"], []
        pieces = range(len(which)) if order == "split" else reversed(range(len(which)))
        groups = [[piece] for piece in pieces] if order == "split" else [list(pieces)]
        for group in groups:
            rows = torch.cat([torch.arange(len(x)).chunk(len(which))[piece] for piece in group])
            own = options | {
                name: [options[name][piece] for piece in group] for name in ("cond_or_uncond", "uuids")
            }
            some = {name: value[rows] if torch.is_tensor(value) else value for name, value in c.items()}
            parts.append((rows, apply_model(x[rows], t[rows], **(some | {"transformer_options": own}))))
        output = torch.empty_like(x)
        for rows, part in parts:
            output[rows] = part
        return output

    positive, negative = host.conditioning(A) + host.conditioning(B), host.conditioning(EMPTY)
    expected = [Prompt(text, None, host_weight((H, W))) for text in (A, B)]
    _, plain = guided_run(sd15, positive, negative, expected, [Prompt(EMPTY)])
    model = sd15.clone()
    model.set_model_unet_function_wrapper(wrapper)
    _, other = guided_run(model, positive, negative, expected, [Prompt(EMPTY)])
    assert torch.equal(plain.run.evaluations[0].labels, other.run.evaluations[0].labels)
