"""`pip install .` gives `scfg_core` with its hosts, and nothing else; it works without the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .pack import PACK

NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "out", "*.egg-info")

USE = """
import torch

import scfg_core
from scfg_core import Grid, LayerMaps, Settings, combine, ratio_map, scfg, segment

torch.manual_seed(0)
grid, settings = Grid(6, 5), Settings.preset("paper")


def maps() -> LayerMaps:
    return LayerMaps(torch.rand(2, 30, 30).softmax(-1), torch.rand(2, 30, 77).softmax(-1), grid)


cond, uncond = torch.randn(2, 2, 4, 12, 10)
segmentation = segment([maps(), maps()], [maps(), maps()], settings)
ratio = ratio_map(cond - uncond, segmentation, settings, guidance_scale=7.5)
guided = combine(cond, uncond, ratio, guidance_scale=7.5)
assert segmentation.labels.shape == (2, 6, 5) and segmentation.labels.unique().numel() > 2
assert ratio.shape == (2, 1, 12, 10) and ratio.unique().numel() > 2
assert torch.allclose(guided, uncond + 7.5 * ratio * (cond - uncond), atol=1e-5)

from tiny import make, sample

pipeline = make("SD 1.5")
plain = sample(pipeline, "SD 1.5")
with scfg(pipeline, settings) as run:
    assert not torch.equal(sample(pipeline, "SD 1.5"), plain)
assert len(run.evaluations) == 3 and run.notes == []
assert torch.equal(sample(pipeline, "SD 1.5"), plain)
print(scfg_core.__file__)
"""


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--disable-pip-version-check"], check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, for setuptools writes beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACK, folder / "source", ignore=NOT_SOURCE)
    pip("wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source"))
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_has_the_core_with_its_hosts_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == {path.relative_to(PACK).as_posix() for path in (PACK / "scfg_core").rglob("*.py")}
    assert len({name.split("/")[0] for name in metadata}) == 1


def test_it_works_where_the_repository_is_not(wheel, tmp_path):
    pip("install", "--target", str(tmp_path / "site"), str(wheel))
    shutil.copy(PACK / "tests" / "diffusers" / "tiny.py", tmp_path)
    (tmp_path / "use.py").write_text(USE, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "use.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(tmp_path / "site")
