"""What the registry gets: the archive has all that a user needs, and nothing else."""

import ast
import re
import subprocess
from pathlib import PurePosixPath

import pytest
from PIL import Image

from .pack import PACK

tomllib = pytest.importorskip("tomllib", reason="Python 3.11")
NEEDED = (
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "demo/weights.safetensors",
    "docs/MODELS.md",
    "nodes/__init__.py",
    "scfg_core/__init__.py",
    "views/__init__.py",
    "web/scfg.js",
    "web/docs/SCFGGuidance.md",
    "workflows/scfg_demo.json",
    "subgraphs/S-CFG Sampler with Views.json",
    "subgraphs/S-CFG Mask from Words.json",
    "locales/en/nodeDefs.json",
)
SHIPPED = {
    *("__init__.py", "pyproject.toml", "requirements.txt", "README.md", "CHANGELOG.md", "LICENSE"),
    *("demo", "docs", "locales", "nodes", "scfg_core", "subgraphs", "views", "web", "workflows"),
}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shipped():
    """Tracked files that .comfyignore leaves in, as the registry's own tool packs them."""
    try:
        command = ["git", "-C", str(PACK)]
        tracked = subprocess.run([*command, "ls-files"], capture_output=True, text=True, check=True)
        ignored = subprocess.run(
            [*command, "ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("packaging: not a git checkout")
    return set(tracked.stdout.splitlines()) - set(ignored.stdout.splitlines())


def test_the_registry_knows_the_pack_by_its_names(project):
    assert project["project"]["name"] == "semantic-cfg"
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["project"]["version"])
    comfy = project["tool"]["comfy"]
    assert comfy["DisplayName"] == "S-CFG: Semantic-aware Guidance"
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert comfy["PublisherId"] and project["project"]["urls"]["Repository"]


@pytest.mark.parametrize(("name", "shape"), [("Icon", 1), ("Banner", 21 / 9)])
def test_the_icon_is_square_and_the_banner_21_to_9_and_both_are_there(project, shipped, name, shape):
    address, repository = project["tool"]["comfy"][name], project["project"]["urls"]["Repository"]
    raw = repository.replace("github.com", "raw.githubusercontent.com") + "/main/"
    assert address.startswith(raw) and address.endswith(".png")
    path = PACK / address.removeprefix(raw)
    with Image.open(path) as image:
        width, height = image.size
        assert image.format == "PNG" and abs(width / height - shape) < 0.01
        assert name != "Icon" or width <= 400
    assert path.stat().st_size < 100_000


def test_the_version_is_in_the_changelog(project):
    assert project["project"]["version"] in (PACK / "CHANGELOG.md").read_text(encoding="utf-8")


def test_requirements_can_move_nobodys_torch(project):
    lines = (PACK / "requirements.txt").read_text(encoding="utf-8").split()
    assert all(re.fullmatch(r"[a-z]+", line) for line in lines)
    assert sorted(lines) == sorted(project["project"]["dependencies"])


def test_the_archive_has_what_a_user_needs_and_nothing_else(shipped):
    assert [name for name in NEEDED if name not in shipped] == []
    assert {name.split("/")[0] for name in shipped} == SHIPPED


def test_whatever_a_shipped_module_imports_of_ours_is_shipped_too(shipped):
    missing = []
    for name in sorted(shipped):
        if not name.endswith(".py"):
            continue
        folder = PurePosixPath(name).parent
        for node in ast.walk(ast.parse((PACK / name).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            place = folder
            for _ in range(node.level - 1):
                place = place.parent
            place = place.joinpath(*(node.module or "").split("."))
            if f"{place}.py" not in shipped and f"{place}/__init__.py" not in shipped:
                missing.append((name, str(place)))
    assert missing == []


def test_an_archive_is_small(shipped):
    assert sum((PACK / name).stat().st_size for name in shipped if (PACK / name).exists()) < 20 * 2**20


def test_public_ci_runs_the_oldest_host_that_the_registry_is_told_of(project):
    oldest = project["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    refs = re.findall(r"ref: (v[\d.]+)", (PACK / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert refs[0] == f"v{oldest}" and len(refs) == 2
