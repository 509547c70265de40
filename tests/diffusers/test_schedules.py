"""What the schedulers say: noise levels, and how seldom they are asked."""

from collections import Counter

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from scfg_core import ScfgError
from scfg_core.hosts.diffusers import scfg
from scfg_core.hosts.diffusers.schedule import Schedule

from ..core.waits import Waits
from .loop import context, noise, sample
from .tiny import random

SCHEDULERS = [
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers with numpy 2
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_level_undoes_the_schedulers_own_noise(kind, prediction):
    """x0 and ε → add_noise → scale_model_input → what the U-Net would be given → x0 and ε again."""
    scheduler = kind(beta_schedule="scaled_linear", prediction_type=prediction)
    clean, epsilon = random(1, 4, 8, 8), random(1, 4, 8, 8, seed=2)
    for step in (0, 4, 7):
        scheduler.set_timesteps(9)
        schedule, t = Schedule.of(scheduler), scheduler.timesteps[step]
        level = schedule.level(schedule.time_of(t))
        x = scheduler.scale_model_input(scheduler.add_noise(clean, epsilon, t[None]), t)
        velocity = level.signal * epsilon - level.noise * clean
        predicted = epsilon if prediction == "epsilon" else velocity
        torch.testing.assert_close(level.epsilon(x, predicted), epsilon, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(level.clean(x, predicted), clean, rtol=1e-3, atol=2e-3 + 1e-3 * level.sigma)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_every_evaluation_finds_its_step(unet, kind):
    scheduler = kind(beta_schedule="scaled_linear")
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        scale_and_sample(unet, scheduler)
    steps = [run.step_of(each) for each in run.evaluations]
    assert len(steps) == len(scheduler.timesteps)
    assert sorted(set(steps)) == list(range(steps[-1] + 1))
    assert steps == sorted(steps)
    assert steps[-1] == len(run.schedule) - 2
    assert not run.notes


@torch.no_grad()
def scale_and_sample(unet, scheduler, steps=4):
    scheduler.set_timesteps(steps)
    x = noise(1) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(torch.cat([x, x]), t)
        uncond, cond = unet(scaled, t, encoder_hidden_states=context(1)).sample.chunk(2)
        x = scheduler.step(uncond + 5 * (cond - uncond), t, x).prev_sample
    return x


def test_euler_is_at_its_own_sigmas():
    scheduler = EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="linspace")
    scheduler.set_timesteps(7)
    ours = torch.tensor(Schedule.of(scheduler).sigmas())
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=1e-3, atol=1e-3)


def waits(unet, scheduler, steps):
    """What a sampling waits for, in order, beyond what it would without S-CFG."""
    with Waits() as seen:
        sample(unet, scheduler, context(1), noise(1), steps=steps)
    return Counter(seen.found)


def test_no_step_waits_for_the_device(unet, scheduler):
    plain = {steps: waits(unet, scheduler, steps) for steps in (2, 6)}
    extra = []
    for steps in (2, 6):
        with scfg(unet, guidance_scale=5, scheduler=scheduler):
            extra.append(waits(unet, scheduler, steps) - plain[steps])
    assert extra[0]["aten::equal"] == 1, "the halves of the batch are compared"
    assert extra[1] == extra[0], "once for a sampling, whatever its length"


def test_a_timestep_from_elsewhere_is_read(scheduler):
    scheduler.set_timesteps(5)
    schedule = Schedule.of(scheduler)
    for t in (400, 400.0, torch.tensor(400), torch.tensor([400.0, 400.0]), scheduler.timesteps[2].clone()):
        assert schedule.time_of(t) == 400
    assert [schedule.time_of(t) for t in scheduler.timesteps] == [800, 600, 400, 200, 0]
    assert schedule.time_of(scheduler.timesteps[1:][1].expand(2)) == 400


def test_a_sampling_of_one_step_starts_afresh_as_well(unet, scheduler):
    with scfg(unet, guidance_scale=5, scheduler=scheduler) as run:
        for _ in range(2):
            sample(unet, scheduler, context(1), noise(1), steps=1)
    assert [each.index for each in run.evaluations] == [0]


def test_a_scheduler_of_another_form_is_refused(unet):
    with pytest.raises(ScfgError, match="alphas_cumprod"):
        scfg(unet, guidance_scale=5, scheduler=EDMEulerScheduler())
