"""S-CFG on a diffusers U-Net: what it changes, what it must not change, and what it leaves behind."""

import copy
from dataclasses import replace

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.models.attention_processor import AttnProcessor2_0, SlicedAttnProcessor
from torch import nn

from scfg_core import (
    PRESETS,
    Grid,
    Note,
    Prompt,
    ScfgError,
    Segmentation,
    Settings,
    parse_weights,
    ratio_map,
    rescale,
)
from scfg_core.hosts.diffusers import scfg
from scfg_core.run.session import Collection

from .loop import context, noise, sample, stored_segmentation
from .states import state

WATCH = Settings(strength=0)


def test_detaching_gives_the_very_processors_and_the_same_pictures(unet, scheduler):
    before, plain = state(unet), sample(unet, scheduler, context(1), noise(1))
    with scfg(unet, guidance_scale=5, scheduler=scheduler):
        guided = sample(unet, scheduler, context(1), noise(1))
    assert not torch.equal(guided, plain)
    assert state(unet) == before
    assert torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)


@pytest.mark.parametrize("processor", [AttnProcessor2_0(), SlicedAttnProcessor(1)])
def test_watching_is_bit_identical_with_any_processor(unet, scheduler, processor):
    unet.set_attn_processor(processor)
    plain = sample(unet, scheduler, context(2), noise(2))
    with scfg(unet, WATCH, guidance_scale=5, scheduler=scheduler) as run:
        watched = sample(unet, scheduler, context(2), noise(2))
    assert torch.equal(watched, plain)
    assert len(run.evaluations) == 3


def test_outside_its_part_of_the_schedule_nothing_changes(unet, scheduler):
    plain = sample(unet, scheduler, context(1), noise(1))
    with scfg(unet, Settings(start=0.4, end=0.6), guidance_scale=5, scheduler=scheduler) as run:
        assert torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)
    assert all(torch.all(each.ratio == 1) for each in run.evaluations)


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("size", [(16, 16), (13, 22), (5, 9)])
@torch.no_grad()
def test_conditional_half_is_rescaled_as_the_stored_maps_say(unet, scheduler, preset, size):
    x, text, t = noise(2, *size).repeat(2, 1, 1, 1), context(2), torch.tensor(700)
    half = Grid(*((side + 1) // 2 for side in size))
    quarter = Grid((half.h + 1) // 2, (half.w + 1) // 2)
    uncond, cond = unet(x, t, text).sample.chunk(2)
    segmentation = stored_segmentation(unet, PRESETS[preset], {1: half, 2: quarter}, x, t, text)
    ratio = ratio_map(cond - uncond, segmentation, PRESETS[preset], 5.0)
    with scfg(unet, PRESETS[preset], guidance_scale=5, scheduler=scheduler) as run:
        got = unet(x, t, text).sample.chunk(2)
    assert torch.equal(run.evaluations[0].labels.long(), segmentation.labels)
    assert torch.equal(got[0], uncond)
    torch.testing.assert_close(got[1], rescale(cond, uncond, ratio), rtol=1e-5, atol=1e-6)


def test_batch_gives_each_picture_what_it_gets_alone(unet, scheduler):
    text, x = context(3), noise(3)
    with scfg(unet, guidance_scale=5, scheduler=scheduler):
        together = sample(unet, scheduler, text, x)
        alone = [sample(unet, scheduler, text[[image, 3 + image]], x[image, None]) for image in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("as_tuple", [True, False])
@torch.no_grad()
def test_output_keeps_its_form(unet, scheduler, as_tuple):
    call = (noise(1).repeat(2, 1, 1, 1), 500, context(1))
    plain = unet(*call, return_dict=not as_tuple)
    with scfg(unet, guidance_scale=5, scheduler=scheduler):
        guided = unet(*call, return_dict=not as_tuple)
    assert type(guided) is type(plain)
    assert guided[0].shape == plain[0].shape


@pytest.mark.parametrize(("scale", "rows"), [(1.0, 2), (5.0, 3)])
@torch.no_grad()
def test_a_call_without_guidance_passes_untouched(unet, scheduler, scale, rows):
    call = (noise(rows), 500, context(2)[:rows])
    plain = unet(*call).sample
    with scfg(unet, guidance_scale=scale, scheduler=scheduler) as run:
        assert torch.equal(unet(*call).sample, plain)
    assert run.notes == [Note.NO_GUIDANCE.text]
    assert not run.evaluations


class Pipeline:
    """What a diffusers pipeline shows of itself."""

    def __init__(self, unet, scheduler) -> None:
        self.unet, self.scheduler, self._scale = unet, scheduler, None

    @property
    def guidance_scale(self):
        return self._scale

    @property
    def do_classifier_free_guidance(self):
        return self._scale > 1

    def __call__(self, scale: float) -> torch.Tensor:
        self._scale = scale
        if not self.do_classifier_free_guidance:
            with torch.no_grad():
                return self.unet(noise(2), 10, context(1)).sample
        return sample(self.unet, self.scheduler, context(1), noise(1), scale)


def test_a_pipeline_tells_its_own_scale_and_scheduler(unet, scheduler):
    pipe = Pipeline(unet, scheduler)
    with scfg(unet, guidance_scale=7.5, scheduler=scheduler):
        expected = sample(unet, scheduler, context(1), noise(1), 7.5)
    plain = pipe(1.0)
    with scfg(pipe) as run:
        assert torch.equal(pipe(7.5), expected)
        assert torch.equal(pipe(1.0), plain), "two images of a pipeline without CFG are no guidance"
    assert {each.guidance_scale for each in run.evaluations} == {7.5}


def test_a_second_sampling_starts_afresh(unet, scheduler):
    every = Collection(every=2)
    with scfg(unet, guidance_scale=5, scheduler=scheduler, collection=every) as run:
        first = sample(unet, scheduler, context(1), noise(1))
        sample(unet, scheduler, context(1).flip(1), -noise(1))
        assert torch.equal(sample(unet, scheduler, context(1), noise(1)), first)
    assert [each.index for each in run.evaluations] == [0, 1, 2]
    assert [each.fresh for each in run.evaluations] == [True, False, True]
    assert Note.REUSED.text not in run.notes


def test_an_error_inside_leaves_nothing_behind(unet, scheduler):
    before = state(unet)
    with pytest.raises(RuntimeError, match="stop"), scfg(unet, guidance_scale=5, scheduler=scheduler):
        sample(unet, scheduler, context(1), noise(1), steps=1)
        raise RuntimeError("stop")
    assert state(unet) == before
    with scfg(unet, guidance_scale=5, scheduler=scheduler):
        pass


def test_running_out_of_memory_is_plain_cfg_and_said_once(unet, scheduler, monkeypatch):
    plain = sample(unet, scheduler, context(1), noise(1))

    def full(*_, **__):
        raise RuntimeError("not enough memory: you tried to allocate memory")

    monkeypatch.setattr("scfg_core.collect.backend.PyTorch.cross_maps", full)
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        assert torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)
    assert run.notes == [Note.OUT_OF_MEMORY.text]


@pytest.mark.parametrize("where", ["watching._split_heads", "attachment.rescale", "models.unet.count_predicted"])
def test_an_error_of_our_own_is_plain_cfg_and_said_once(unet, scheduler, monkeypatch, where):
    plain = sample(unet, scheduler, context(1), noise(1))
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        monkeypatch.setattr(f"scfg_core.hosts.diffusers.{where}", lambda *_: 1 / 0)
        picture = sample(unet, scheduler, context(1), noise(1))
    assert torch.equal(picture, plain)
    assert len(run.notes) == 1 and "ZeroDivisionError" in run.notes[0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_norms_are_in_epsilon_units_whatever_the_unet_predicts(unet, scheduler, prediction, monkeypatch):
    """The same ε behind three kinds of prediction: the records agree."""
    x, t = noise(1).repeat(2, 1, 1, 1), 400
    alpha = float(scheduler.alphas_cumprod[t])
    a, s = alpha**0.5, (1 - alpha) ** 0.5
    terms = {
        "epsilon": lambda eps: eps,
        "v_prediction": lambda eps: (eps - s * x) / a,
        "sample": lambda eps: (x - s * eps) / a,
    }
    records = []
    for kind in ("epsilon", prediction):
        model, config = copy.deepcopy(unet), scheduler.from_config(scheduler.config, prediction_type=kind)
        config.set_timesteps(5)
        inner = model.forward
        model.forward = lambda *call, inner=inner, kind=kind: (terms[kind](inner(*call).sample),)
        with torch.no_grad(), scfg(model, guidance_scale=5, scheduler=config) as run:
            model(x, t, context(1))
        records.append(run.evaluations[0])
    for name in ("classifier", "rescaled", "diffusion", "ratio"):
        torch.testing.assert_close(getattr(records[1], name), getattr(records[0], name), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with numpy 2
def test_steps_are_those_of_the_schedule(unet, scheduler):
    solver = DPMSolverMultistepScheduler.from_config(scheduler.config)
    with scfg(unet, guidance_scale=5, scheduler=solver) as run:
        sample(unet, solver, context(1), noise(1), steps=4)
    assert [run.step_of(each) for each in run.evaluations] == [0, 1, 2, 3]
    assert len(run.schedule) == 5
    assert run.schedule[-1] == 0


def test_word_weights_change_their_region_only(unet, scheduler):
    settings = Settings(smooth_ratio=False, cap="none")
    with scfg(unet, settings, guidance_scale=5, scheduler=scheduler) as run:
        sample(unet, scheduler, context(1), noise(1), steps=1)
    plain = run.evaluations[0]
    label = int(plain.labels.mode().values.flatten()[0])
    with scfg(unet, settings, guidance_scale=5, scheduler=scheduler, word_weights={label: 2.0}) as run:
        sample(unet, scheduler, context(1), noise(1), steps=1)
    change = run.evaluations[0].ratio / plain.ratio
    assert torch.allclose(change[plain.labels == label], torch.tensor(2.0))
    assert torch.allclose(change[plain.labels != label], torch.tensor(1.0))


@pytest.mark.parametrize(("part", "weighted"), [("0-0.5", [0, 1]), ("0.5-1", [2, 3])])
def test_a_word_weight_acts_on_its_phrase_in_its_part_of_the_schedule(unet, scheduler, part, weighted):
    texts = ("<start>", "red", "horse", "on", "grass", "<end>", "<pad>")
    prompt = Prompt.plain("cond", 7, (0,), texts, (-1, 0, 1, 2, 3, -1, -1))
    weights = parse_weights(f"horse: 0 @ {part}, grass: 0 @ {part}")
    settings = Settings(smooth_ratio=False)
    with scfg(unet, settings, guidance_scale=5, scheduler=scheduler, prompt=prompt, word_weights=weights) as run:
        sample(unet, scheduler, context(1), noise(1), steps=4)
    assert [index for index, kept in enumerate(run.evaluations) if (kept.ratio == 0).any()] == weighted
    assert run.notes == []


def test_the_run_knows_its_words_and_layers(unet, scheduler):
    texts = ("<start>", "horse", *["<pad>"] * 5)
    prompt = Prompt.plain("cond", 7, (0,), texts, (-1, 0, *[-1] * 5))
    with scfg(unet, guidance_scale=5, scheduler=scheduler, prompt=prompt) as run:
        sample(unet, scheduler, context(1), noise(1), steps=1)
    assert run.prompts == [prompt]
    assert run.closed
    assert list(run.layers) == [
        "down_blocks.1.attentions.0.transformer_blocks.0",
        "mid_block.attentions.0.transformer_blocks.0",
        "up_blocks.1.attentions.0.transformer_blocks.0",
        "up_blocks.1.attentions.1.transformer_blocks.0",
    ]


def test_a_long_prompt_has_a_start_in_every_chunk(unet, scheduler):
    with scfg(unet, WATCH, guidance_scale=5, scheduler=scheduler) as run:
        sample(unet, scheduler, context(1, tokens=154), noise(1), steps=1)
    assert not torch.any(run.evaluations[0].labels == 77), "the second START belongs to the first"


def test_a_start_outside_the_prompt_costs_the_guidance_and_not_the_image(unet, scheduler):
    plain = sample(unet, scheduler, context(1), noise(1))
    with scfg(unet, guidance_scale=5, scheduler=scheduler, start_tokens=(0, 77)) as run:
        assert torch.equal(sample(unet, scheduler, context(1), noise(1)), plain)
    assert len(run.notes) == 1 and "77" in run.notes[0]


def test_a_prompt_of_another_length_is_noted(unet, scheduler):
    prompt = Prompt.plain("cond", 5, (0,), ("<start>", "a", "red", "hat", "<end>"), (-1, 0, 1, 2, -1))
    with scfg(unet, guidance_scale=5, scheduler=scheduler, prompt=prompt) as run:
        sample(unet, scheduler, context(1), noise(1), steps=1)
    assert run.notes == [Note.OTHER_LENGTH.text.format(expected=5, given=7)]


def test_the_roles_of_a_prompt_are_used(unet, scheduler):
    prompt = Prompt.plain("cond", 7, (2,))
    with scfg(unet, guidance_scale=5, scheduler=scheduler, prompt=prompt) as run:
        sample(unet, scheduler, context(1), noise(1), steps=1)
    assert run.prompts[0].start_tokens == (2,)


def test_what_is_missing_or_impossible_is_said(unet, scheduler):
    with pytest.raises(ScfgError, match="guidance_scale"):
        scfg(unet, scheduler=scheduler)
    with pytest.raises(ScfgError, match="scheduler"):
        scfg(unet, guidance_scale=5)
    with pytest.raises(ScfgError, match="text-conditioned"):
        scfg(nn.Linear(2, 2), guidance_scale=5, scheduler=scheduler)
    first = scfg(unet, guidance_scale=5, scheduler=scheduler)
    with pytest.raises(ScfgError, match="detach"):
        scfg(unet, guidance_scale=5, scheduler=scheduler)
    first.detach()
    first.detach()
    before = state(unet)
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.fused_projections = True
    with pytest.raises(ScfgError, match="unfuse"):
        scfg(unet, guidance_scale=5, scheduler=scheduler)
    unet.mid_block.attentions[0].transformer_blocks[0].attn1.fused_projections = False
    assert state(unet) == before


def test_regions_of_ones_own_take_the_place_of_the_segmentation(unet, scheduler):
    def halves(found: Segmentation) -> Segmentation:
        labels = torch.zeros_like(found.labels)
        labels[:, :, labels.shape[2] // 2 :] = 3
        return replace(found, labels=labels, foreground=labels == 3)

    with scfg(unet, guidance_scale=5, scheduler=scheduler, resegment=halves) as run:
        sample(unet, scheduler, context(1), noise(1))
    assert [set(each.labels.unique().tolist()) for each in run.evaluations] == [{0, 3}] * 3
    for each in run.evaluations:
        left, right = each.classifier.chunk(2, dim=2)
        assert torch.allclose(each.ratio[..., 0], (right.mean() / left.mean()).clamp(0.8, 3), rtol=1e-5)
        assert torch.equal(each.ratio[..., -1], torch.ones_like(each.ratio[..., -1]))
