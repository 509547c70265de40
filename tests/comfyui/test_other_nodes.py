"""Beside other nodes, in both orders: theirs keep their effect, ours acts or says why not, nothing crashes."""

import gc

import numpy as np
import pytest
import torch

from scfg_core import Note, Settings
from scfg_core.method.propagation import StoredAttention
from scfg_core.run.session import Collection

from ..core import oracle
from . import host
from .expected import Guided, Prompt, check, scfg, watching
from .nodes import ALL, BESIDE, IN_THE_WAY, OTHERS, Node
from .probe import Probe

CAT, BLURRY = host.tokens(1), host.tokens(2)
PROMPTS = host.conditioning(CAT), host.conditioning(BLURRY)
PICTURE = host.latent(32, 32)

both_orders = pytest.mark.parametrize("order", ["before", "after"])


def sample(model, steps=1):
    torch.manual_seed(0)  # some nodes draw numbers of their own
    return host.ksample(model, *PROMPTS, PICTURE, steps=steps)


def together(model, node: Node, order: str, attach=scfg) -> Guided:
    """S-CFG put on before or after the node."""
    if order == "after":
        return attach(node(model))
    guided = attach(model)
    guided.model = node(guided.model)
    return guided


def alone_and_together(model, node: Node, order: str) -> tuple[Probe, Probe, Guided]:
    """One evaluation with the node alone, and one with S-CFG as well."""
    with Probe(model) as alone:
        sample(node(alone.patcher))
    with Probe(model) as probe:
        guided = together(probe.patcher, node, order)
        sample(guided.model)
    return alone, probe, guided


@both_orders
@pytest.mark.parametrize("name", ALL)
def test_watching_leaves_the_other_nodes_picture_bit_for_bit(sd15, name, order):
    plain = sample(ALL[name](sd15), steps=2)
    assert torch.equal(sample(together(sd15, ALL[name], order, watching).model, steps=2), plain)


@both_orders
@pytest.mark.parametrize("name", BESIDE)
def test_the_other_node_keeps_its_effect_and_guidance_acts_on_it(sd15, name, order):
    alone, probe, guided = alone_and_together(sd15, BESIDE[name], order)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)])
    before, now = alone.evaluations[0], probe.evaluations[0]
    assert torch.equal(now.args["cond_denoised"], before.args["cond_denoised"])
    assert torch.equal(now.args["uncond_denoised"], before.args["uncond_denoised"])
    assert guided.run.notes == []


@both_orders
@pytest.mark.parametrize("name", ["PAG", "SAG"])
def test_what_is_added_after_cfg_stays_the_same(sd15, name, order):
    alone, probe, _ = alone_and_together(sd15, BESIDE[name], order)
    added, still_added = (
        each.evaluations[0].result - each.evaluations[0].args["denoised"] for each in (alone, probe)
    )
    assert added.abs().max() > 0.1
    torch.testing.assert_close(still_added, added, rtol=1e-4, atol=1e-3)
    assert probe.extra_calls == alone.extra_calls == 1


@both_orders
@pytest.mark.parametrize("name", IN_THE_WAY)
def test_where_nothing_can_be_watched_the_picture_is_unharmed_and_the_user_is_told(sd15, name, order):
    plain = sample(IN_THE_WAY[name](sd15), steps=2)
    guided = together(sd15, IN_THE_WAY[name], order)
    assert torch.equal(sample(guided.model, steps=2), plain)
    assert guided.line.startswith("S-CFG inactive: ")
    assert (Note.TILED if name in ("tiled", "rolled") else Note.LAYER_SKIPPED).text in guided.line
    assert len(set(guided.run.notes)) == len(guided.run.notes)


def test_no_map_of_a_layer_that_is_left_out_outlives_the_unet(sd15):
    """Of n² numbers each: at the CFG, and in the passes of other nodes behind it, there are none."""
    found = []

    def count(args):
        found.append(sum(type(each) is StoredAttention for each in gc.get_objects()))
        return args["denoised"]

    model = IN_THE_WAY["halved keys"](sd15)
    model.set_model_sampler_post_cfg_function(count)
    sample(scfg(model).model, steps=2)
    assert found == [0, 0]


@both_orders
def test_layers_that_hypertile_cuts_are_left_out(sd15, order):
    alone, probe, guided = alone_and_together(sd15, OTHERS["HyperTile"], order)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)], layers=("middle_block.1.transformer_blocks.0",))
    assert "1 layers, grids 4×4" in guided.line
    assert guided.line.count(Note.LAYER_SKIPPED.text) == 1
    assert torch.equal(probe.evaluations[0].args["cond_denoised"], alone.evaluations[0].args["cond_denoised"])


@both_orders
def test_token_merging_at_full_size_is_outside_our_layers(order):
    model = host.sd15(transformer_depth=[1, 1, 1, 0], transformer_depth_output=[1, 1, 1, 1, 1, 1, 0, 0])
    alone, probe, guided = alone_and_together(model, OTHERS["ToMe"], order)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)])
    assert torch.equal(probe.evaluations[0].args["cond_denoised"], alone.evaluations[0].args["cond_denoised"])


def test_deep_shrink_changes_the_grids_and_not_the_layers(sd15):
    with Probe(sd15) as probe:
        guided = scfg(BESIDE["Deep Shrink"](probe.patcher))
        host.ksample(guided.model, *PROMPTS, host.latent(40, 72), steps=2)
    check(probe, guided, [Prompt(CAT)], [Prompt(BLURRY)])
    assert [tuple(each.labels.shape[1:]) for each in guided.run.evaluations] == [(5, 9), (10, 18)]


@both_orders
def test_rescale_cfg_rescales_what_guidance_gives(sd15, order):
    with Probe(sd15) as probe:
        guided = together(probe.patcher, OTHERS["RescaleCFG"], order)
        sample(guided.model)
    assert "S-CFG active" in guided.line
    args, recorded = probe.evaluations[0].args, guided.run.evaluations[0]
    text, empty = args["cond_denoised"], args["uncond_denoised"]
    ratio = oracle.ratio_map(
        (text - empty)[0].double().numpy(),
        recorded.labels[0].numpy(),
        recorded.foreground[0].numpy(),
        Settings(),
        7.0,
    )
    assert np.ptp(ratio) > 0.1
    text = empty + torch.from_numpy(ratio).float() * (text - empty)
    x = args["input"]
    rescale = OTHERS["RescaleCFG"](sd15).model_options["sampler_cfg_function"]
    wanted = x - rescale(
        {"cond": x - text, "uncond": x - empty, "cond_scale": 7.0, "sigma": args["sigma"], "input": x}
    )
    torch.testing.assert_close(args["denoised"], wanted, rtol=1e-4, atol=1e-2)


@both_orders
@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_steps_from_a_cache_keep_the_last_labels(sd15, name, order):
    with Probe(sd15) as probe:
        guided = together(probe.patcher, OTHERS[name], order)
        sample(guided.model, steps=6)
    assert 0 < probe.calls < 6, "nothing was taken from the cache"
    assert "S-CFG active" in guided.line
    assert Note.NO_MAPS.text not in guided.run.notes
    fresh = [each for each in guided.run.evaluations if each.fresh]
    assert len(fresh) == probe.calls


@both_orders
def test_a_compiled_model(order):
    def compiled(model):
        from comfy_extras.nodes_torch_compile import TorchCompileModel

        return TorchCompileModel.execute(model, "eager")[0]

    def watched(model):
        return watching(model, Collection(every=2))

    one_level = {"channel_mult": [1], "num_res_blocks": [1], "transformer_depth": [0]}
    model = host.sd15(**one_level, transformer_depth_output=[0, 0])
    plain = sample(compiled(model), steps=2)
    expected = scfg(model)
    picture = sample(expected.model, steps=2)
    torch._dynamo.reset()
    guided = together(model, compiled, order)
    torch.testing.assert_close(sample(guided.model, steps=2), picture, rtol=1e-4, atol=1e-3)
    assert guided.line.startswith(expected.line)
    assert len(guided.run.notes) <= 1
    assert torch.equal(guided.run.evaluations[0].labels, expected.run.evaluations[0].labels)
    assert torch.equal(sample(together(model, compiled, order, watched).model, steps=2), plain)
