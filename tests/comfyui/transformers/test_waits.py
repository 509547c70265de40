"""On transformers, too, S-CFG adds nothing to an evaluation that the CPU would wait for on a GPU."""

import pytest
import torch

from scfg_core import Settings
from scfg_core.hosts.comfyui import guide

from ...core.waits import Waits
from .expected import sample
from .models import FAMILIES


@pytest.fixture
def waits(monkeypatch, comfyui):
    """Waits of every evaluation, its wrappers included: (name, …) each."""
    from comfy.samplers import CFGGuider

    evaluate, found = CFGGuider.__call__, []

    def counted(self, *args, **kwargs):
        with Waits() as seen:
            output = evaluate(self, *args, **kwargs)
        found.append(tuple(seen.found))
        return output

    monkeypatch.setattr(CFGGuider, "__call__", counted)
    return found


@pytest.mark.parametrize("name", ["anima", "klein", "qwen", "sd3", "z_image", "aura"])
def test_no_evaluation_of_a_family_after_the_first_waits_more_than_plain_cfg(patcher, waits, name):
    """The first one reads what the text columns are."""
    family = FAMILIES[name]
    mask = {"attention_mask": torch.ones(1, 12, dtype=torch.long).tril(2)} if name == "qwen" else {}
    texts = family.text(1, family.lengths[0], **mask), family.text(2, family.lengths[1])
    sample(patcher(name), *texts, family.latent(6, 8))
    plain = list(waits)
    waits.clear()
    model, trace = guide(patcher(name), Settings())
    sample(model, *texts, family.latent(6, 8))
    assert waits[1:] == plain[1:] and len(waits) == len(trace.runs()[-1].evaluations) == 3
