"""Word weights in a real host: parts of the schedule, words that own nothing, and the demo's own hint."""

import importlib

import pytest
import torch

from scfg_core import Note, Settings, parse_weights

from . import host
from .expected import scfg

H, W, STEPS = 12, 20, 4
SHARP = Settings(smooth_ratio=False)


def named(tokens, *words):
    """A prompt of these words, as S-CFG Text Encode makes it."""
    texts = ("<start>", *words, *["<pad>"] * (76 - len(words)))
    numbers = (-1, *range(len(words)), *[-1] * (76 - len(words)))
    return host.conditioning(tokens, scfg_words=(texts, numbers))


PROMPTS = named(host.tokens(1), "red", "cat", "on", "grass"), host.conditioning(host.tokens(2))


def sample(guided):
    return host.ksample(guided.model, *PROMPTS, host.latent(H, W), steps=STEPS)


@pytest.mark.parametrize(("part", "weighted"), [("0-0.5", [0, 1]), ("0.5-1", [2, 3]), ("0.3-0.7", [1, 2])])
def test_a_weight_acts_in_its_part_of_the_schedule(sd15, part, weighted):
    guided = scfg(sd15, SHARP, word_weights=parse_weights(f"cat: 0 @ {part}, grass: 0 @ {part}"))
    sample(guided)
    ratios = [kept.ratio for kept in guided.run.evaluations]
    assert [index for index, ratio in enumerate(ratios) if (ratio == 0).any()] == weighted
    assert "S-CFG active" in guided.line and guided.run.notes == []


def test_a_part_is_within_the_range_of_s_cfg_itself(sd15):
    settings = Settings(smooth_ratio=False, start=0.3)
    guided = scfg(sd15, settings, word_weights=parse_weights("cat: 0 @ 0-0.5, grass: 0 @ 0-0.5"))
    sample(guided)
    ratios = [kept.ratio for kept in guided.run.evaluations]
    assert [bool((ratio != 1).any()) for ratio in ratios] == [False, True, True, True]
    assert [bool((ratio == 0).any()) for ratio in ratios] == [False, True, False, False]


@pytest.mark.parametrize("settings", [Settings(), Settings.preset("paper"), Settings.preset("authors")])
def test_an_image_with_weights_of_one_is_bit_equal_to_one_without(sd15, settings):
    plain = sample(scfg(sd15, settings))
    weights = parse_weights("cat: 1, grass: 1 @ 0-0.5")
    assert torch.equal(sample(scfg(sd15, settings, word_weights=weights)), plain)
    assert not torch.equal(sample(scfg(sd15, settings, word_weights={"cat": 2.0})), plain)


def test_a_word_without_a_region_is_named_in_the_status(sd15):
    guided = scfg(sd15, word_weights={"cat": 2.0, "on": 2.0, "zebra": 2.0})
    sample(guided)
    assert Note.OWNS_NOTHING.text.format(word="on") in guided.line
    assert Note.UNKNOWN_WORD.text.format(word="zebra") in guided.line
    assert Note.OWNS_NOTHING.text.format(word="cat") not in guided.line


HINT = "a yellow tent and a blue house on grass at noon"
"""The prompt of the demo's workflow, whose note says: try "tent: 2"."""


@pytest.fixture(scope="module")
def demo(pack):
    """The pack's modules by name, and a function that draws with weights: (image (H, W, 3), run)."""
    names = ("nodes.demo_model", "nodes.token_mask", "scfg_core", "scfg_core.hosts.comfyui")
    parts = {name: importlib.import_module(f"{pack.__name__}.{name}") for name in names}
    model, clip, vae = parts["nodes.demo_model"].SCFGDemoModel.execute().args
    positive, negative = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (HINT, ""))

    def draw(weights=None):
        core = parts["scfg_core"]
        patched, trace = parts["scfg_core.hosts.comfyui"].guide(model, core.Settings(), weights)
        latent = {"samples": torch.zeros(1, 12, 32, 32)}
        found = host.ksample(patched, positive, negative, latent, cfg=3.0, steps=20, seed=4)
        return vae.decode(found)[0].clamp(0, 1), trace.runs()[-1]

    return parts, draw


def test_the_demos_own_hint_is_felt_where_the_tent_is(demo):
    """A factor of 2 raises the scale there by more than a third, and changes the image there, not elsewhere."""
    parts, draw = demo
    parse = parts["scfg_core"].parse_weights
    (plain, before), (weighted, after), (alone, by_word) = (
        draw(),
        draw(parse("tent: 2")),
        draw(parse("tent: 2", "word")),
    )
    mask = parts["nodes.token_mask"].token_mask(before, "tent", "hard", "one step", -1, 0, None)[0] > 0.5
    assert 0.03 < mask.float().mean() < 0.15
    patches = mask[8::16, 8::16]

    def scale(run):
        return torch.stack([kept.ratio[0][patches].mean() * kept.guidance_scale for kept in run.evaluations]).mean()

    assert scale(after) > 1.35 * scale(before)
    change = (weighted - plain).abs().mean(dim=-1) * 255
    assert change[mask].mean() > 8 and change[mask].mean() > 4 * change[~mask].mean()
    assert after.notes == []
    assert by_word.notes == [Note.OWNS_NOTHING.text.format(word="tent")] and torch.equal(alone, plain)
