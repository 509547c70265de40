"""Guiders: those that run three lists, those that never ask the CFG function, and several threads at once."""

import threading

import pytest
import torch

from scfg_core import Note

from . import host
from .expected import Prompt, check, scfg, watching
from .probe import Probe

A, B, EMPTY = (host.tokens(seed) for seed in (1, 2, 3))
FIRST, SECOND, NEGATIVE = (host.conditioning(text) for text in (A, B, EMPTY))
PICTURE = host.latent(24, 40, 2)


def cfg_guider(model, cfg=7.0):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(FIRST, NEGATIVE)
    guider.set_cfg(cfg)
    return guider


def dual_cfg(model, nested):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG

    guider = Guider_DualCFG(model)
    guider.set_conds(FIRST, SECOND, NEGATIVE)
    guider.set_cfg(7.0, 3.0, nested=nested)
    return guider


def perp_neg(model, scale=1.0):
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    guider = Guider_PerpNeg(model)
    guider.set_conds(FIRST, SECOND, NEGATIVE)
    guider.set_cfg(7.0, scale)
    return guider


def basic(model):
    from comfy_extras.nodes_custom_sampler import Guider_Basic

    guider = Guider_Basic(model)
    guider.inner_set_conds({"positive": FIRST})
    return guider


def test_custom_sampling_with_the_cfg_guider(sd15):
    with Probe(sd15) as probe:
        guided = scfg(probe.patcher)
        output = host.guide_sample(cfg_guider(guided.model), PICTURE)
    check(probe, guided, [Prompt(A)], [Prompt(EMPTY)])
    again = scfg(sd15)
    torch.testing.assert_close(output, host.ksample(again.model, FIRST, NEGATIVE, PICTURE))


@pytest.mark.parametrize(("nested", "text", "empty"), [(False, B, EMPTY), (True, A, B)], ids=["regular", "nested"])
def test_dual_cfg_guides_the_pair_that_its_cfg_function_gets(sd15, nested, text, empty):
    with Probe(sd15) as probe:
        guided = scfg(probe.patcher)
        host.guide_sample(dual_cfg(guided.model, nested), PICTURE)
    check(probe, guided, [Prompt(text)], [Prompt(empty)])
    assert torch.equal(
        host.guide_sample(dual_cfg(watching(sd15).model, nested), PICTURE),
        host.guide_sample(dual_cfg(sd15, nested), PICTURE),
    )


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_perp_neg_is_left_as_it_is_and_says_so_once(sd15, scale):
    plain = host.guide_sample(perp_neg(sd15, scale), PICTURE)
    guided = scfg(sd15)
    assert torch.equal(host.guide_sample(perp_neg(guided.model, scale), PICTURE), plain)
    assert guided.line.startswith(f"S-CFG inactive: {Note.NO_CFG_FUNCTION.text}")
    assert guided.run.evaluations == []
    assert torch.equal(host.guide_sample(perp_neg(watching(sd15).model, scale), PICTURE), plain)


def test_the_older_perp_neg_node_is_given_the_rescaled_prediction(sd15):
    from comfy_extras.nodes_perpneg import PerpNeg

    with Probe(sd15) as probe:
        guided = scfg(PerpNeg.execute(probe.patcher, SECOND, 1.0)[0])
        host.ksample(guided.model, FIRST, NEGATIVE, PICTURE)
    assert "S-CFG active" in guided.line
    assert len(guided.run.evaluations) == len(probe.evaluations) == 2


def test_the_basic_guider_has_no_guidance_to_scale(sd15):
    plain = host.guide_sample(basic(sd15), PICTURE)
    guided = scfg(sd15)
    assert torch.equal(host.guide_sample(basic(guided.model), PICTURE), plain)
    assert guided.line.startswith(f"S-CFG inactive: {Note.CFG_ONE.text}")


def test_a_guider_that_changes_cfg_from_step_to_step(sd15):
    import comfy.samplers

    class Falling(comfy.samplers.CFGGuider):
        def predict_noise(self, *args, **kwargs):
            self.cfg = {7.0: 4.0, 4.0: 1.0, 1.0: 5.0}[self.cfg]
            return super().predict_noise(*args, **kwargs)

    with Probe(sd15) as probe:
        guided = scfg(probe.patcher)
        guider = Falling(guided.model)
        guider.set_conds(FIRST, NEGATIVE)
        guider.set_cfg(7.0)
        host.guide_sample(guider, PICTURE, steps=3)
    assert [each.guidance_scale for each in guided.run.evaluations] == [4.0, 5.0]
    del probe.evaluations[1]
    check(probe, guided, [Prompt(A)], [Prompt(EMPTY)])


def in_two_threads(apply_model, args):
    """Runs every chunk of a batch in a thread of its own, as a split over several devices does."""
    x, t, c, which = args["input"], args["timestep"], args["c"], args["cond_or_uncond"]
    barrier, parts, errors = threading.Barrier(len(which)), {}, []

    def work(chunk: int) -> None:
        try:
            rows = torch.arange(len(x)).chunk(len(which))[chunk]
            options = dict(c["transformer_options"])
            options |= {name: [options[name][chunk]] for name in ("cond_or_uncond", "uuids")}
            some = {name: value[rows] if torch.is_tensor(value) else value for name, value in c.items()}
            barrier.wait()
            with torch.no_grad():
                parts[chunk] = apply_model(x[rows], t[rows], **(some | {"transformer_options": options}))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(chunk,)) for chunk in range(len(which))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return torch.cat([parts[chunk] for chunk in range(len(which))])


def test_chunks_in_several_threads_give_the_same_maps(sd15):
    joined = scfg(sd15)
    expected = host.ksample(joined.model, FIRST + SECOND, NEGATIVE, PICTURE)
    model = sd15.clone()
    model.set_model_unet_function_wrapper(in_two_threads)
    for _ in range(3):
        apart = scfg(model)
        output = host.ksample(apart.model, FIRST + SECOND, NEGATIVE, PICTURE)
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-2)
        for one, other in zip(joined.run.evaluations, apart.run.evaluations, strict=True):
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.foreground, other.foreground)
        assert apart.line == joined.line


def test_the_hosts_own_split_over_devices_gives_the_same_maps(sd15):
    multigpu = pytest.importorskip("comfy.multigpu", reason="this ComfyUI does not split over devices")
    devices = [torch.device("cpu"), torch.device("cpu", 0)]
    pool = multigpu.MultiGPUThreadPool(devices)

    def split(executor, model, conds, x, sigma, options):
        options = options | {"multigpu_clones": dict.fromkeys(devices, sd15), "multigpu_thread_pool": pool}
        return executor(model, conds, x, sigma, options)

    joined = scfg(sd15)
    host.ksample(joined.model, FIRST, NEGATIVE, PICTURE, steps=1)
    model = sd15.clone()
    model.add_wrapper_with_key("calc_cond_batch", "split", split)
    apart = scfg(model)
    try:
        host.ksample(apart.model, FIRST, NEGATIVE, PICTURE, steps=1)
    finally:
        pool.shutdown()
    assert torch.equal(apart.run.evaluations[0].labels, joined.run.evaluations[0].labels)
    assert apart.line == joined.line
