"""A run in which S-CFG was inactive leaves a result: views say why in their place, masks refuse, nothing fails."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from scfg_core import Note

from . import host
from .graphs import demo, guidance, node, sampled
from .nodes import OTHERS, attention_couple, stock, tiled
from .server import Server

FIRST, SECOND, NEGATIVE = (host.conditioning(host.tokens(seed)) for seed in (1, 2, 3))
PICTURE = host.latent(16, 24, 2)


@pytest.fixture(scope="module")
def parts(pack):
    """Modules of the pack as the host imports it."""
    wanted = {"attach": "scfg_core.hosts.comfyui.attach", "settings": "scfg_core.method.settings"}
    wanted |= {"result": "nodes.result", "images": "nodes.images", "mask": "nodes.token_mask", "views": "views"}
    return SimpleNamespace(
        **{key: importlib.import_module(f"{pack.__name__}.{path}") for key, path in wanted.items()}
    )


def plainly(model, **how):
    return host.ksample(model, FIRST, NEGATIVE, PICTURE, **how)


def by_perp_neg(model):
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    guider = Guider_PerpNeg(model)
    guider.set_conds(FIRST, SECOND, NEGATIVE)
    guider.set_cfg(7.0, 1.0)
    return host.guide_sample(guider, PICTURE)


def unknown(model):
    class Unknown(torch.nn.Module):
        def __init__(self, dtype=None, **_):
            super().__init__()
            self.dtype = dtype
            self.mix = torch.nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x, timesteps, context=None, **_):
            return self.mix(x) + context.mean()

    return host.wrapped(Unknown)


WAYS = {
    Note.CFG_ONE: (None, lambda model: plainly(model, cfg=1.0)),
    Note.UNKNOWN_MODEL: (unknown, plainly),
    Note.NO_CFG_FUNCTION: (None, by_perp_neg),
    Note.TILED: (tiled, plainly),
    Note.NO_MAPS: (attention_couple, plainly),
    Note.NOTHING_SAMPLED: (None, lambda model: plainly(model, steps=0)),
    Note.INTERNAL_ERROR: (None, plainly),
}
"""What makes a run inactive: a node before S-CFG, and how the run samples."""


@pytest.mark.parametrize("note", WAYS, ids=lambda note: note.name)
def test_every_inactive_run_has_a_result_and_a_view_that_says_why(sd15, parts, monkeypatch, note):
    before, sample = WAYS[note]
    model = sd15 if before is None else before(sd15)
    plain = sample(model)
    if note is Note.INTERNAL_ERROR:
        monkeypatch.setattr(parts.attach, "SamplingRun", type("SamplingRun", (), {"__init__": lambda *_: 1 / 0}))
    lines = []
    listener = SimpleNamespace(evaluated=lambda *_: None, finished=lambda run, status: lines.append(status))
    guided, trace = parts.attach.guide(model, parts.settings.Settings(), listeners=(listener,))
    output = sample(guided)
    assert torch.equal(output, plain)
    run = parts.result.run_of(trace, {"samples": output})
    assert lines == [f"S-CFG inactive: {' · '.join(run.notes)}"]
    assert [text for text in run.notes if text.startswith(note.text.partition("{")[0])]
    assert parts.views.inactive(run).std() > 5
    with pytest.raises(ValueError, match="expected a run with S-CFG active, got an inactive one") as error:
        parts.mask.token_mask(run, "cat", "soft", parts.mask.AVERAGE, -1, 0, None)
    assert run.notes[0] in str(error.value) and note.remedy in str(error.value)


def test_a_latent_of_several_parts_finds_its_run(parts):
    """Image and audio are sampled side by side, and come back apart."""
    nested = pytest.importorskip("comfy.nested_tensor", reason="this ComfyUI has no nested latents").NestedTensor
    from comfy.utils import pack_latents

    latents = [torch.randn(1, 4, 6, 5), torch.randn(1, 8, 7)]
    module = importlib.import_module(parts.result.__package__.removesuffix("nodes") + "scfg_core.run.record")
    run = module.Run(fingerprint=parts.result.Fingerprint.of(pack_latents(latents)[0]))
    trace = parts.result.Trace()
    trace.add(run)
    assert parts.result.run_of(trace, {"samples": nested(latents)}) is run
    with pytest.raises(ValueError, match="got another latent"):
        parts.result.run_of(trace, {"samples": nested([latents[0], latents[1] + 1])})


# beside SAG, which has the unconditional prediction computed at cfg 1 as well


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("slot", [False, True], ids=["SAG", "SAG and RescaleCFG"])
def test_at_cfg_1_sag_acts_alone(sd15, parts, order, slot):
    sag = stock("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0)
    others = [sag, OTHERS["RescaleCFG"]] if slot else [sag]

    def beside(model):
        for other in others:
            model = other(model)
        return model

    settings = parts.settings.Settings()
    lines = []
    listener = SimpleNamespace(evaluated=lambda *_: None, finished=lambda run, status: lines.append(status))
    model = beside(sd15) if order == "after" else sd15
    guided, trace = parts.attach.guide(model, settings, listeners=(listener,))
    guided = guided if order == "after" else beside(guided)
    assert torch.equal(plainly(guided, cfg=1.0), plainly(beside(sd15), cfg=1.0))
    (run,) = trace.runs()
    assert len(run.evaluations) == 2 and all(torch.all(seen.ratio == 1) for seen in run.evaluations)
    assert lines[0].startswith("S-CFG observing: ") and f"({Note.CFG_ONE.text})" in lines[0]
    assert not torch.equal(plainly(guided, cfg=1.1), plainly(beside(sd15), cfg=1.1))


# on a server, as a user sees it

SCENE = "a red boat and a blue cat"


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def viewed(sampler="s", guide="5"):
    return {
        "result": node("SCFGResult", trace=[guide, 1], latent=[sampler, 0]),
        "regions": node(
            *("SCFGSegmentation",),
            **{"result": ["result", 0], "show": "all steps", "step": 30, "batch_index": 7, "under": "nothing"},
        ),
        "scales": node("SCFGScaleMap", result=["result", 0], step=30, batch_index=7),
        "curves": node("SCFGCurves", result=["result", 0], batch_index=7),
    }


def mask(words="boat"):
    how = {"words": words, "mode": "hard", "over": "average of all steps", "step": -1, "feather": 0.0}
    return {
        "mask": node("SCFGTokenMask", result=["result", 0], **how),
        "as_image": node("MaskToImage", mask=["mask", 0]),
        "file": node("SaveImage", images=["as_image", 0], filename_prefix="mask"),
    }


def test_at_cfg_1_the_prompt_runs_and_every_view_says_why(server):
    prompt = sampled(demo(SCENE) | {"5": guidance()}, "s", ["5", 0], cfg=1.0)
    run = server.run(prompt | viewed())
    assert run.error is None, run.error
    assert dict(run.texts)["5"] == f"S-CFG inactive: {Note.CFG_ONE.text}"
    views = [run.pictures[name][0] for name in ("regions", "scales", "curves")]
    assert all(np.array_equal(view, views[0]) for view in views)
    assert views[0].shape[1] < 600 and views[0].std() > 5
    assert len(run.pictures["s_file"]) == 1


def test_a_mask_of_an_inactive_run_is_an_error_that_says_why(server):
    prompt = sampled(demo(SCENE) | {"5": guidance()}, "s", ["5", 0], cfg=1.0)
    error = server.run(prompt | viewed() | mask()).error or ""
    assert Note.CFG_ONE.text in error and Note.CFG_ONE.remedy in error


def test_the_agreement_with_an_inactive_run_is_none_and_the_curves_are_drawn(server):
    prompt = demo(SCENE) | {"5": guidance(), "6": guidance(strength=0.5)}
    prompt = sampled(sampled(prompt, "s", ["5", 0]), "other", ["6", 0], cfg=1.0)
    prompt |= viewed() | {"other_result": node("SCFGResult", trace=["6", 1], latent=["other", 0])}
    for name in ("regions", "scales", "curves"):
        prompt[name]["inputs"] |= {"step": -1, "batch_index": 0}
    prompt["curves"]["inputs"]["compare_with"] = ["other_result", 0]
    run = server.run(prompt)
    assert run.error is None, run.error
    assert run.pictures["curves"][0].shape[1] > 800
