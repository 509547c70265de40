"""Nodes that people have installed beside S-CFG: the host's own, and stand-ins for well-known packs."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from . import host

Node = Callable[[Any], Any]


def stock(module: str, name: str, *widgets: Any) -> Node:
    """A node of the host, whichever way its version declares it; skips where the version has none."""

    def apply(model: Any) -> Any:
        home = f"comfy_extras.{module}"
        cls = getattr(import_module(home), name, None) if find_spec(home) else None
        if cls is None:
            pytest.skip(f"this ComfyUI has no {name}")
        execute = cls.execute if hasattr(cls, "execute") else cls().patch
        return execute(model, *widgets)[0]

    return apply


def attention_override(model: Any) -> Any:
    """An attention backend with an accent of its own (Sage and its kin)."""

    def override(func, *args, **kwargs):
        return func(*args, **kwargs) * 1.01

    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def _every_block(model: Any, patch: Callable, kind: str) -> Any:
    model = model.clone()
    for name, count in (("input", 9), ("middle", 1), ("output", 9)):
        for number in range(count):
            getattr(model, f"set_model_{kind}_replace")(patch, name, number)
    return model


def ip_adapter(model: Any) -> Any:
    """Cross-attention replaced in every block: the image's tokens get an attention of their own."""
    from comfy.ldm.modules.attention import optimized_attention

    def patch(q, k, v, extra_options):
        heads = extra_options["n_heads"]
        text = optimized_attention(q, k, v, heads)
        return text + 0.3 * optimized_attention(q, k[:, :4].roll(1, dims=2), v[:, :4], heads)

    return _every_block(model, patch, "attn2")


def replaced_self_attention(model: Any) -> Any:
    """Self-attention replaced in every block, by a function that hands the host's options on."""
    from comfy.ldm.modules.attention import optimized_attention

    def patch(q, k, v, extra_options):
        return 0.9 * optimized_attention(q, k, v, extra_options["n_heads"], transformer_options=extra_options)

    return _every_block(model, patch, "attn1")


def attention_couple(model: Any) -> Any:
    """A second prompt for the left half: the positive's rows come twice to the cross-attention."""
    other = host.tokens(9)

    def chunks(rows, extra_options):
        which = extra_options["cond_or_uncond"]
        return zip(which, rows.chunk(len(which)), strict=True)

    def enlarge(q, k, v, extra_options):
        queries, keys = [], []
        for (index, own), (_, text) in zip(chunks(q, extra_options), chunks(k, extra_options), strict=True):
            queries += [own] if index else [own, own]
            keys += [text] if index else [text, other.to(text).expand_as(text)]
        return torch.cat(queries), torch.cat(keys), torch.cat(keys)

    def reduce(out, extra_options):
        which = extra_options["cond_or_uncond"]
        rows = list(out.chunk(sum(1 if index else 2 for index in which)))
        half = torch.linspace(0, 1, out.shape[1])[None, :, None] < 0.5
        return torch.cat([rows.pop(0) if index else torch.where(half, rows.pop(0), rows.pop(0)) for index in which])

    model = model.clone()
    model.set_model_attn2_patch(enlarge)
    model.set_model_attn2_output_patch(reduce)
    return model


def halved_keys(model: Any) -> Any:
    """Every second token of the text alone (CLIP NegPip and its kin, whose prompts carry two texts in turns)."""
    model = model.clone()
    model.set_model_attn2_patch(lambda q, k, v, extra_options: (q, k[:, ::2], v[:, ::2]))
    return model


def extra_pass(model: Any) -> Any:
    """A weaker prediction from a second pass, made before the CFG and mixed into both."""
    import comfy.samplers

    def pre_cfg(args):
        model, options, x = args["model"], args["model_options"], args["input"]
        weak = comfy.samplers.calc_cond_batch(model, args["conds"], x * 0.5, args["sigma"], options)
        return [own + 0.1 * (own - other) for own, other in zip(args["conds_out"], weak, strict=True)]

    model = model.clone()
    model.set_model_sampler_pre_cfg_function(pre_cfg)
    return model


def merged_tokens(model: Any) -> Any:
    """Every second query left out of the self-attention of every block (token merging)."""

    def merge(q, k, v, extra_options):
        return q[:, ::2], k, v

    def unmerge(out, extra_options):
        _, _, h, w = extra_options["activations_shape"]
        return out.repeat_interleave(2, dim=1)[:, : h * w]

    model = model.clone()
    model.set_model_attn1_patch(merge)
    model.set_model_attn1_output_patch(unmerge)
    return model


def tiled(model: Any) -> Any:
    """The U-Net sees the left and the right half of the picture, one after the other (tiled diffusion)."""

    def wrapper(apply_model, args):
        halves = args["input"].chunk(2, dim=3)
        return torch.cat([apply_model(half, args["timestep"], **args["c"]) for half in halves], dim=3)

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


def rolled(model: Any) -> Any:
    """The U-Net sees the whole picture twice, once shifted (panoramas, jittered tiles)."""

    def wrapper(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        shift = x.shape[3] // 2
        return (apply_model(x, t, **c) + apply_model(x.roll(shift, 3), t, **c).roll(-shift, 3)) / 2

    model = model.clone()
    model.set_model_unet_function_wrapper(wrapper)
    return model


SHRINK = (3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")

BESIDE: dict[str, Node] = {
    "PAG": stock("nodes_pag", "PerturbedAttentionGuidance", 3.0),
    "SAG": stock("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0),
    "Mahiro": stock("nodes_mahiro", "Mahiro"),
    "APG": stock("nodes_apg", "APG", 0.5, 5.0, -0.5),
    "TCFG": stock("nodes_tcfg", "TCFG"),
    "FreSca": stock("nodes_fresca", "FreSca", 1.2, 1.5, 4),
    "NAG": stock("nodes_nag", "NAGuidance", 5.0, 0.5, 1.5),
    "FreeU": stock("nodes_freelunch", "FreeU", 1.1, 1.2, 0.9, 0.2),
    "FreeU_V2": stock("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    "Deep Shrink": stock("nodes_model_downscale", "PatchModelAddDownscale", *SHRINK),
    "HyperTile outside our layers": stock("nodes_hypertile", "HyperTile", 32, 1, 1, False),
    "Model Attention Backend": stock("nodes_model_advanced", "ModelAttentionBackend", "pytorch attention"),
    "attention multiply": stock("nodes_attention_multiply", "UNetCrossAttentionMultiply", 1.1, 0.9, 1.0, 1.0),
    "attention override": attention_override,
    "IP-Adapter": ip_adapter,
    "replaced self-attention": replaced_self_attention,
    "extra pass before CFG": extra_pass,
}
"""With these every chosen layer can be watched, and guidance acts."""

IN_THE_WAY: dict[str, Node] = {
    "attention couple": attention_couple,
    "token merging": merged_tokens,
    "halved keys": halved_keys,
    "tiled": tiled,
    "rolled": rolled,
}
"""With these there is nothing to watch: plain CFG, and a line that says why."""

OTHERS: dict[str, Node] = {
    "RescaleCFG": stock("nodes_model_advanced", "RescaleCFG", 0.7),
    "HyperTile": stock("nodes_hypertile", "HyperTile", 32, 1, 2, False),
    "ToMe": stock("nodes_tomesd", "TomePatchModel", 0.3),
    "EasyCache": stock("nodes_easycache", "EasyCacheNode", 3.0, 0.0, 1.0, False),
    "LazyCache": stock("nodes_easycache", "LazyCacheNode", 3.0, 0.0, 1.0, False),
}

ALL = BESIDE | IN_THE_WAY | OTHERS
