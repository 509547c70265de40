"""Do fewer layers see the same? Labels of the choices "auto" and "last" against "all" layers of the two levels.

Every choice watches a sampling of its own over the same noise; watching changes nothing, so all see the same
latents. Without a checkpoint: the demo model, whose levels are so small that "auto" is "all".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scfg_core import Settings
from scfg_core.collect.layers import LayerChoice
from scfg_core.run.agreement import agreement
from scfg_core.run.record import Run
from scfg_core.run.session import Collection

from . import clock, report

CHOICES: tuple[LayerChoice, ...] = ("auto", "last")
STEPS = 20
NEGATIVE = ""
COLUMNS = {
    "name": "layers",
    "prompt": "prompt",
    "labels": "labels as with all",
    "foreground": "foreground as with all",
    "evaluations": "evaluations",
}


def compare(watched: Callable[[str, Collection], Run], prompts: list[str]) -> list[dict[str, Any]]:
    """Rows of agreement; `watched(prompt, collection)` samples with only watching, over the same noise."""
    rows = []
    with tqdm(total=len(prompts) * (1 + len(CHOICES)), unit="run") as bar:
        for prompt in prompts:
            every = watched(prompt, Collection(layers="all"))
            bar.update()
            for choice in CHOICES:
                share = agreement(watched(prompt, Collection(layers=choice)), every)
                rows.append({"name": choice, "prompt": prompt, **vars(share)})
                bar.update()
    return rows


def on_demo(steps: int) -> Callable[[str, Collection], Run]:
    from demo.model import load_model

    from .sampling import sample

    model, settings = load_model(), replace(Settings(), strength=0.0)

    def watched(prompt: str, collection: Collection) -> Run:
        _, run = sample(model, prompt, settings, collection, steps)
        assert run is not None
        return run

    return watched


def on_checkpoint(path: Path, side: int, steps: int, device: str) -> Callable[[str, Collection], Run]:
    """The user's own checkpoint in ComfyUI, latents of side × side."""
    from . import comfyui

    problem = comfyui.start(device)
    if problem:
        raise SystemExit(problem)
    import comfy.sample
    import comfy.sd

    from scfg_core.hosts.comfyui import observe

    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_clip=True)

    def encoded(text: str) -> Any:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    def watched(prompt: str, collection: Collection) -> Run:
        patched, trace = observe(model, collection)
        latent = comfy.sample.fix_empty_latent_channels(patched, torch.zeros(1, 4, side, side))
        noise = comfy.sample.prepare_noise(latent, 0)
        with torch.inference_mode():
            conditions = encoded(prompt), encoded(NEGATIVE)
            comfy.sample.sample(patched, noise, steps, 7.0, "euler", "normal", *conditions, latent, seed=0)
        return trace.runs()[-1]

    return watched


def main(options: argparse.Namespace) -> None:
    steps = options.steps or STEPS
    if options.checkpoint is None:
        from .sampling import PROMPTS

        watched, prompts = on_demo(steps), options.prompt or PROMPTS
    else:
        if not options.prompt:
            raise SystemExit("give at least one --prompt that your checkpoint understands")
        side = (options.latent or [128])[0]
        watched, prompts = on_checkpoint(options.checkpoint, side, steps, options.device), options.prompt
    rows = compare(watched, prompts)
    report.show("Labels of fewer layers", rows, COLUMNS)
    report.save(options.out / "layers.json", "layers", rows, clock.machine(options.device), steps=steps)
