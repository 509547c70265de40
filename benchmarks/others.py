"""python -m benchmarks.others: S-CFG with the host's other guidance nodes, in both orders of the nodes.

The demo model in a real ComfyUI, every node from the host's own registry; the same noise for every variant.
Differences are those of 8-bit images, 0…255: means over pixels and images, for the order the maximum.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from demo.wavelet import decode
from scfg_core import Settings
from scfg_core.hosts.comfyui import guide, observe
from scfg_core.run.record import Run
from scfg_core.run.session import Collection
from views.curves import region_norms, spread

from . import clock, comfyui, report

PACK = Path(__file__).resolve().parents[1]
PROMPTS = (
    "a red boat and a white moon on water at night",
    "a yellow tent on sand at sunset",
    "a purple balloon and a green car",
    "a white cat on grass at noon",
    "a blue house on the left and a red tree on the right",
    "an orange rocket and a pink star on snow in rain",
)
CFG = 5.0
OTHERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "APG": ("nodes_apg", (0.0, 5.0, -0.5)),
    "TCFG": ("nodes_tcfg", ()),
    "FreSca": ("nodes_fresca", (1.0, 1.25, 4)),
    "RescaleCFG": ("nodes_model_advanced", (0.7,)),
    "CFGZeroStar": ("nodes_cfg", ()),
    "Mahiro": ("nodes_mahiro", ()),
    "PerturbedAttentionGuidance": ("nodes_pag", (3.0,)),
    "SelfAttentionGuidance": ("nodes_sag", (0.5, 2.0)),
    "FreeU_V2": ("nodes_freelunch", (1.3, 1.4, 0.9, 0.2)),
    "NAGuidance": ("nodes_nag", (5.0, 0.5, 1.5)),
}
"""Node id: the host's file, and the widgets: its defaults, but APG as its paper has it, FreSca cut for 32×32."""

COLUMNS = {
    "name": "node",
    "passes": "U-Net passes a step",
    "order": "order of the nodes: largest difference",
    "alone": "alone, from CFG",
    "both": "with S-CFG, from CFG",
    "added": "what S-CFG still changes",
    "spread_alone": "spread of norms, alone",
    "spread_both": "with S-CFG",
}
Chain = Callable[[Any], Any]


class Samplers:
    """The demo model's images by a chain of nodes: `images` of each prompt, the noise always the same."""

    def __init__(self, steps: int, images: int) -> None:
        self._steps, self._images = steps, images
        self._model, clip, _ = node("SCFGDemoModel", PACK, ())
        self._clip = clip
        self.calls = 0
        self._model.add_wrapper_with_key("apply_model", "benchmark", self._counted)

    def _counted(self, executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return executor(*args, **kwargs)

    def images(self, chain: Chain) -> tuple[Tensor, list[Run], float]:
        """Images (prompts · images, 3, H, W) in 0…255, the runs recorded, and calls of the U-Net per step."""
        images, runs, self.calls = [], [], 0
        for seed, prompt in enumerate(PROMPTS):
            torch.manual_seed(0)  # some nodes draw numbers of their own
            made = chain(self._model)
            model, trace = made if isinstance(made, tuple) else (made, None)
            images.append(self._sample(model, prompt, seed))
            runs += [] if trace is None else trace.runs()
        return torch.cat(images), runs, self.calls / (len(PROMPTS) * self._steps)

    def _sample(self, model: Any, prompt: str, seed: int) -> Tensor:
        import comfy.sample

        latent = torch.zeros(self._images, 12, 32, 32)
        noise = comfy.sample.prepare_noise(latent, seed)
        texts = [self._clip.encode_from_tokens_scheduled(self._clip.tokenize(text)) for text in (prompt, "")]
        sampled = comfy.sample.sample(
            model, noise, self._steps, CFG, "euler", "normal", *texts, latent, disable_pbar=True, seed=seed
        )
        return (decode(sampled).clamp(-1, 1) + 1) * 127.5


def node(name: str, home: Path, widgets: tuple[Any, ...], model: Any = None) -> Any:
    """What a node of the host's registry returns; `home`: the pack or file that brings it."""
    import nodes

    if name not in nodes.NODE_CLASS_MAPPINGS:
        asyncio.run(nodes.load_custom_node(str(home)))
    kind = nodes.NODE_CLASS_MAPPINGS[name]
    run = kind.execute if hasattr(kind, "execute") else getattr(kind(), kind.FUNCTION)
    outputs = run(*(() if model is None else (model,)), *widgets)
    return outputs.args if hasattr(outputs, "args") else outputs


def other(name: str) -> Chain:
    """The host's node as a chain of one."""
    folder = comfyui.find()
    assert folder is not None
    file, widgets = OTHERS[name]
    return lambda model: node(name, folder / "comfy_extras" / f"{file}.py", widgets, model)[0]


def scfg(model: Any) -> Any:
    return guide(model, Settings())


def watched(model: Any) -> Any:
    return observe(model, Collection())


def behind(chain: Chain) -> Chain:
    """S-CFG first, then the chain."""

    def both(model: Any) -> Any:
        guided, trace = scfg(model)
        return chain(guided), trace

    return both


def rows_of(samplers: Samplers, names: list[str]) -> Iterator[dict[str, Any]]:
    """A row for S-CFG alone, then one for every other node."""
    plain, runs, passes = samplers.images(watched)
    guided, guided_runs, _ = samplers.images(scfg)
    change = _mean(guided, plain)
    yield {
        "name": "S-CFG alone",
        "passes": passes,
        "both": change,
        "added": change,
        "spread_alone": _spread(runs, "classifier"),
        "spread_both": _spread(guided_runs, "rescaled"),
    }
    for name in names:
        chain = other(name)
        alone, runs, passes = samplers.images(lambda model, chain=chain: watched(chain(model)))
        both, guided_runs, _ = samplers.images(lambda model, chain=chain: scfg(chain(model)))
        reverse, _, _ = samplers.images(behind(chain))
        yield {
            "name": name,
            "passes": passes,
            "order": float((both - reverse).abs().max()),
            "alone": _mean(alone, plain),
            "both": _mean(both, plain),
            "added": _mean(both, alone),
            "spread_alone": _spread(runs, "classifier"),
            "spread_both": _spread(guided_runs, "rescaled"),
        }


def _mean(images: Tensor, others: Tensor) -> float:
    return float((images - others).abs().mean())


def _spread(runs: list[Run], norms: str) -> float:
    """How unequal the regions' norms are, mean over runs and images."""
    values = []
    for run in runs:
        for image in range(len(run.evaluations[0].labels)):
            regions = region_norms(run, image)
            values.append(spread(getattr(regions, norms), regions.areas))
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.others", description=__doc__)
    parser.add_argument("--node", action="append", choices=list(OTHERS), help="only this one; may be repeated")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=2, help="per prompt, of six prompts")
    parser.add_argument("--out", type=Path, default=Path("out/benchmarks"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    problem = comfyui.start("cpu")
    if problem:
        raise SystemExit(problem)
    names = options.node or list(OTHERS)
    rows = []
    for row in tqdm(rows_of(Samplers(options.steps, options.images), names), total=1 + len(names), unit="node"):
        rows.append(row)
    report.show("S-CFG with other nodes", rows, COLUMNS)
    report.save(options.out / "others.json", "others", rows, clock.machine("cpu") | comfyui.facts())


if __name__ == "__main__":
    main()
