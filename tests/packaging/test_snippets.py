"""The Python snippets of docs and help pages run as they stand, on a tiny pipeline."""

import re
import runpy

import diffusers
import pytest
import torch

from ..diffusers.tiny import make
from .pack import DOCS, PACK

PAGES = (*sorted((PACK / "docs").glob("*.md")), *sorted(DOCS.glob("*.md")))
SNIPPETS = {
    f"{path.name}-{index}": code
    for path in PAGES
    for index, code in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    )
}


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a snippet, with a tiny pipeline for any checkpoint; its variables by name."""

    def from_pretrained(name):
        assert "/" in name
        return make("SD 1.5")

    def run(name):
        (tmp_path / "snippet.py").write_text(SNIPPETS[name], encoding="utf-8")
        return runpy.run_path(str(tmp_path / "snippet.py"))

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", from_pretrained)
    return run


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs_as_it_stands(name, run):
    run(name)


def test_the_snippet_of_the_method_guides_region_by_region(run):
    values = run("METHOD.md-0")
    cond, uncond, ratio = values["eps_cond"], values["eps_uncond"], values["ratio"]
    assert ratio.unique().numel() > 2
    assert torch.allclose(values["eps"], uncond + 7.5 * ratio * (cond - uncond), atol=1e-5)


def test_the_snippet_of_diffusers_records_a_guided_run(run):
    values = run("DIFFUSERS.md-0")
    assert len(values["run"].evaluations) == 50 and values["image"].size == (16, 16)
