"""Does a prompt that follows words change its thing, and only its thing? `python -m evaluation follow`

A real ComfyUI samples the demo model, from COMFYUI_PATH, else ~/comfy/ComfyUI, with its Python. The base prompt is
a held-out caption; a second one names its first thing in another colour. How the second is combined with the first:

base       not at all.
no mask    Conditioning Combine, everywhere.
true mask  the base prompt as default, the second where the judge sees the thing in the image of the base prompt.
followed   the base prompt as default, the second through S-CFG Follow Words on the thing's noun.

The judge says whether the thing is there in the other colour, and whether all other things are as before. |Δ| is
the mean difference from the image of the base prompt, of 255 levels, outside the thing as the judge sees it in
either image.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from benchmarks import comfyui
from demo.words import COLOURS, NOUNS
from demo.world import Scenes, captions, held_out_scenes, spell

from ..statistics import Figure, compare, mean_of_groups, share
from ..store import write_whole
from .judge import Answers, answers, load_judge

SEED, NOISE_SEED = 51, 70_000
ARMS = ("base", "no mask", "true mask", "followed")
OTHER_COLOUR = 3
"""How far along the list of colours the second prompt's is."""


def pack() -> types.ModuleType:
    """The node pack, imported as the host imports it."""
    root = Path(__file__).parents[2]
    spec = importlib.util.spec_from_file_location(
        "scfg_pack", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scfg_pack"] = module
    spec.loader.exec_module(module)
    return module


def recoloured(scenes: Scenes) -> tuple[Scenes, Tensor]:
    """The scenes with the first thing of each in another colour, which no other thing has; and its slot (N,)."""
    slot = scenes.present.int().argmax(dim=1)
    rows = torch.arange(len(scenes))
    colour = scenes.colour.clone()
    for step in range(OTHER_COLOUR, OTHER_COLOUR + len(COLOURS)):
        wanted = (scenes.colour[rows, slot] + step) % len(COLOURS)
        taken = (scenes.colour == wanted[:, None]).any(dim=1)
        unset = colour[rows, slot] == scenes.colour[rows, slot]
        colour[rows, slot] = torch.where(unset & ~taken, wanted, colour[rows, slot])
    return replace(scenes, colour=colour), slot


class Host:
    """The demo model in ComfyUI, with the pack's nodes."""

    def __init__(self, steps: int, gamma: float, options: dict[str, Any]) -> None:
        self._nodes = importlib.import_module("scfg_pack.nodes")
        load_demo = importlib.import_module("scfg_pack.demo.comfyui").load_demo
        self._model, self._clip, self._vae = load_demo()
        self._steps, self._gamma, self._options = steps, gamma, options

    def encode(self, text: str) -> list:
        return self._nodes.SCFGTextEncode.execute(self._clip, text)[0]

    def sample(self, positive: list, seed: int, followed: bool = False) -> Tensor:
        """Image (3, 64, 64), range −1…1."""
        import comfy.sample

        model = self._model
        if followed:
            observe = importlib.import_module("scfg_pack.scfg_core.hosts.comfyui").observe
            collection = importlib.import_module("scfg_pack.scfg_core.run.session").Collection()
            model = observe(model, collection)[0]
        latent = torch.zeros(1, 12, 32, 32)
        noise = comfy.sample.prepare_noise(latent, seed)
        negative = self.encode("")
        sampled = comfy.sample.sample(
            model, noise, self._steps, self._gamma, "euler", "normal", positive, negative, latent, disable_pbar=True
        )
        image = self._vae.decode(sampled)[0, ::4, ::4]
        return rearrange(image, "h w c -> c h w") * 2 - 1

    def combined(self, arm: str, base: list, second: list, noun: str, thing: Tensor) -> list:
        """The positive prompt of an arm; thing: (16, 16) bool, where it is in the image of the base prompt."""
        import node_helpers

        default = node_helpers.conditioning_set_values(base, {"default": True})
        if arm == "base":
            return base
        if arm == "no mask":
            return base + second
        if arm == "true mask":
            mask = thing.float()[None].repeat_interleave(2, 1).repeat_interleave(2, 2)
            return node_helpers.conditioning_set_values(second, {"mask": mask}) + default
        names = importlib.import_module("scfg_pack.nodes.follow_words")
        values = {
            "mode": "hard", "feather": 0.0, "start_percent": 0.0, "end_percent": 1.0, "freeze_after": 1.0,
            "blend": 1, "min_share": 0.0, "max_share": 1.0, "fallback": "nowhere",
        }  # fmt: skip
        follow = names.SCFGFollowWords.execute(second, noun, **values | self._options)[0]
        return follow + default


def draw(host: Host, scenes: Scenes, changed: Scenes, slot: Tensor, judge: Any) -> dict[str, Tensor]:
    """Images (N, 3, 64, 64) of every arm."""
    texts, others = (captions(each)[0] for each in (scenes, changed))
    images: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
    for row in range(len(scenes)):
        base, second = host.encode(spell(texts[row])), host.encode(spell(others[row]))
        number = int(scenes.noun[row, slot[row]])
        thing = torch.zeros(16, 16, dtype=torch.bool)
        for arm in ARMS:
            positive = host.combined(arm, base, second, NOUNS[number], thing)
            image = host.sample(positive, NOISE_SEED + row, arm == "followed")
            images[arm].append(image)
            if arm == "base":
                thing = answers(judge, image[None]).patches[0] == number
        print(f"\r{row + 1} of {len(scenes)}", end="", flush=True)
    print()
    return {arm: torch.stack(drawn) for arm, drawn in images.items()}


def measured(
    found: Answers, base: Answers, images: Tensor, before: Tensor, scenes: Scenes, changed: Scenes, slot: Tensor
) -> dict[str, list[list[float]]]:
    """Per image: whether the thing has its new colour, whether the others are right, and |Δ| outside the thing."""
    rows = torch.arange(len(scenes))
    turned = found.things_right(changed)[rows, slot]
    right = found.things_right(scenes)
    others = scenes.present.clone()
    others[rows, slot] = False
    number = scenes.noun[rows, slot][:, None, None]
    thing = (found.patches == number) | (base.patches == number)
    outside = ~thing.repeat_interleave(4, 1).repeat_interleave(4, 2)
    delta = (images - before).abs().mean(dim=1) * 127.5
    return {
        "thing changed": [[float(value)] for value in turned],
        "others right": [
            [float(value) for value, there in zip(answer, present, strict=True) if there]
            for answer, present in zip(right.tolist(), others.tolist(), strict=True)
        ],
        "|Δ| outside": [[float(one[mask].mean())] for one, mask in zip(delta, outside, strict=True)],
    }


def main(arguments: list[str] | None = None) -> None:
    """Draw, judge, print, write."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation follow",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="of Euler")
    parser.add_argument("--gamma", type=float, default=5.0)
    parser.add_argument("--options", type=json.loads, default={}, help="inputs of the node, as JSON")
    parser.add_argument("--out", type=Path, default=Path("out/follow"))
    options = parser.parse_args(arguments)
    problem = comfyui.start("cpu")
    if problem:
        sys.exit(problem)
    torch.set_num_threads(1)
    pack()
    judge, scenes = load_judge(), held_out_scenes(options.prompts, SEED)
    changed, slot = recoloured(scenes)
    images = draw(Host(options.steps, options.gamma, options.options), scenes, changed, slot, judge)
    found = {arm: answers(judge, drawn) for arm, drawn in images.items()}
    values = {
        arm: measured(found[arm], found["base"], images[arm], images["base"], scenes, changed, slot) for arm in ARMS
    }
    record: dict[str, Any] = {"steps": options.steps, "gamma": options.gamma, "options": options.options}
    for name in values["base"]:
        for arm in ARMS:
            groups = [group for group in values[arm][name] if group]
            figure = (
                mean_of_groups(groups) if name.startswith("|") else share([[v > 0.5 for v in g] for g in groups])
            )
            record[f"{name}, {arm}"] = _rounded(figure)
            print(f"{name:14} {arm:10} {figure}  n = {figure.n}")
        for other in ("no mask", "true mask"):
            ours, theirs = ([group for group in values[arm][name] if group] for arm in ("followed", other))
            print(f"{name:14} followed − {other}: {compare(ours, theirs)}")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.save(images, options.out / "images.pt")
    write_whole(options.out / "follow.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _rounded(figure: Figure) -> dict[str, float | None]:
    """For JSON, which has no NaN: None."""
    return {name: round(value, 4) if value == value else None for name, value in asdict(figure).items()}
