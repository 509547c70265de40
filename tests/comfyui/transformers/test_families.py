"""Every family of transformers: maps, labels, foreground, ratio and the guided image are the oracle's."""

from dataclasses import replace

import pytest
import torch

from scfg_core import Settings
from scfg_core.collect.backend import PyTorch
from scfg_core.collect.operators import FlashAttention

from ..expected import scfg, watching
from .expected import check, guided_run, sample
from .models import FAMILIES, sd3, text_first

NAMES = list(FAMILIES)


def prompts(family, images: int = 1):
    return [family.text(seed, length, images) for seed, length in enumerate(family.lengths, start=1)]


@pytest.mark.parametrize("name", NAMES)
def test_labels_foreground_and_guidance_are_the_oracles(patcher, name):
    family = FAMILIES[name]
    size = (9, 13) if family.odd else (10, 14)
    probe, guided, image = guided_run(patcher(name), family, *prompts(family), family.latent(*size, images=2))
    check(probe, guided, family.lengths)
    assert torch.isfinite(image).all()
    assert not torch.equal(image, sample(patcher(name), *prompts(family), family.latent(*size, images=2)))
    separate = family.lengths[0] != family.lengths[1] and name != "anima"
    assert [len(each.calls) for each in probe.evaluations] == [2 if separate else 1] * 3


@pytest.mark.parametrize("name", NAMES)
def test_attention_in_place_of_maps_gives_the_same(patcher, monkeypatch, name):
    """As PyTorch computes large layers on CUDA."""
    used, attend = [], FlashAttention.propagate

    def propagate(operator, columns, weights):
        used.append(columns.shape)
        return attend(operator, columns, weights)

    monkeypatch.setattr(FlashAttention, "propagate", propagate)
    monkeypatch.setattr(PyTorch, "_flash", lambda *given: True)
    family = FAMILIES[name]
    probe, guided, _ = guided_run(patcher(name), family, *prompts(family), family.latent(10, 14))
    check(probe, guided, family.lengths)
    assert used


@pytest.mark.parametrize("name", NAMES)
def test_watching_changes_no_bit_and_strength_0_is_stock(patcher, name):
    family, latent = FAMILIES[name], FAMILIES[name].latent(10, 14)
    plain = sample(patcher(name), *prompts(family), latent)
    watched = watching(patcher(name))
    assert torch.equal(sample(watched.model, *prompts(family), latent), plain)
    assert "S-CFG observing" in watched.line and len(watched.run.evaluations) == 3
    idle = scfg(patcher(name), Settings(strength=0.0))
    assert torch.equal(sample(idle.model, *prompts(family), latent), plain)


@pytest.mark.parametrize("name", [name for name in NAMES if FAMILIES[name].order])
def test_with_text_and_image_in_the_other_order_the_check_fails(patcher, name):
    family = FAMILIES[name]
    order = family.order

    def swapped(text: int, image: int):
        keys, words, patches = order(text, image)
        return keys, slice(keys - words.stop, keys - words.start), slice(keys - patches.stop, keys - patches.start)

    wrong = replace(family, order=swapped)
    probe, guided, _ = guided_run(patcher(name), wrong, *prompts(family), family.latent(10, 14))
    with pytest.raises(AssertionError):
        check(probe, guided, family.lengths)


@pytest.mark.parametrize("changes", [{"qk_norm": None}, {"register_length": 4}], ids=["no norms", "registers"])
def test_sd3_without_norms_or_with_registers(changes):
    family = FAMILIES["sd3"]
    behind = changes.get("register_length", 0)
    family = replace(family, order=text_first(before=behind))
    probe, guided, _ = guided_run(sd3(**changes), family, *prompts(family), family.latent(10, 14))
    check(probe, guided, family.lengths)


@pytest.mark.parametrize("name", ["chroma", "anima", "z_image"])
@pytest.mark.parametrize("preset", ["paper", "authors"])
def test_presets_of_the_paper_and_the_authors(patcher, name, preset):
    family, settings = FAMILIES[name], Settings.preset(preset)
    probe, guided, _ = guided_run(patcher(name), family, *prompts(family), family.latent(10, 14), settings=settings)
    check(probe, guided, family.lengths, settings=settings)
