"""S-CFG adds nothing to an evaluation that the CPU would wait for on a GPU."""

from dataclasses import replace

import pytest
import torch

from scfg_core import Settings, parse_weights
from scfg_core.hosts.comfyui import guide, observe
from scfg_core.run.session import Collection

from ..core.waits import Waits
from . import host

WORDS = (("<start>", "red", "cat", *["<pad>"] * 74), (-1, 0, 1, *[-1] * 74))
CAT = host.conditioning(host.tokens(1), scfg_words=WORDS)
DOG, BLURRY = (host.conditioning(host.tokens(seed)) for seed in (2, 3))
LONG = host.conditioning(host.tokens(4, 154))
LEFT = host.conditioning(host.tokens(2), mask=torch.ones(1, 16, 24).tril(), set_area_to_bounds=False)
TOP = host.conditioning(host.tokens(2), area=(8, 24, 0, 0))
PICTURES = host.latent(16, 24, images=2)


@pytest.fixture
def waits(monkeypatch, comfyui):
    """Waits of every evaluation, its wrappers included: (name, …) each."""
    from comfy.samplers import CFGGuider

    evaluate, found = CFGGuider.__call__, []

    def counted(self, *args, **kwargs):
        with Waits() as waits:
            output = evaluate(self, *args, **kwargs)
        found.append(tuple(waits.found))
        return output

    monkeypatch.setattr(CFGGuider, "__call__", counted)
    return found


def sampled(waits, model, positive):
    waits.clear()
    host.ksample(model, positive, BLURRY, PICTURES, steps=2)
    return list(waits)


VERBS = {
    "watching": lambda model: observe(model, Collection()),
    "soft maps": lambda model: observe(model, Collection(soft_maps=True)),
    "every second": lambda model: guide(observe(model, Collection(every=2))[0], Settings()),
    "guiding": lambda model: guide(model, Settings(), {"cat": 1.5}),
    "by word": lambda model: guide(model, Settings(), parse_weights("cat: 1.5", "word")),
    "authors": lambda model: guide(model, Settings.preset("authors")),
    "patches": lambda model: guide(model, replace(Settings(), regions="patch", mean_preserving=True)),
}
PROMPTS = {"one": CAT, "two chunks": LONG, "combined": CAT + DOG, "mask": CAT + LEFT, "area": CAT + TOP}


CASES = [*((verb, "one") for verb in VERBS), *(("guiding", prompt) for prompt in PROMPTS if prompt != "one")]


@pytest.mark.parametrize(("verb", "positive"), CASES)
def test_no_evaluation_after_the_first_waits_more_than_plain_cfg(sd15, waits, verb, positive):
    plain = sampled(waits, sd15, PROMPTS[positive])
    model, trace = VERBS[verb](sd15)
    assert sampled(waits, model, PROMPTS[positive])[1:] == plain[1:]
    (run,) = trace.runs()
    assert len(run.evaluations) == 2
