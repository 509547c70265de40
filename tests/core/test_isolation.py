"""The mathematics knows no host: it imports nothing but torch and einops, and a host only below hosts/."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = ROOT / "scfg_core"
MODULES = sorted(path for path in CORE.rglob("*.py") if "hosts" not in path.relative_to(CORE).parts)
ALLOWED = {"torch", "einops", "scfg_core"}
HOSTS = ["comfy", "nodes", "folder_paths", "server", "diffusers", "transformers", "accelerate", "safetensors"]
ECOSYSTEM = [
    *HOSTS,
    "huggingface_hub",
    "PIL",
    "matplotlib",
    "cv2",
    "scipy",
    "pandas",
    "aiohttp",
    "requests",
    "tqdm",
]

IMPORT_WITHOUT = """
import sys, json
import torch, einops

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is not here", name=name)

sys.meta_path.insert(0, Absent())
for name in [name for name in sys.modules if name.partition(".")[0] in BLOCKED]:
    del sys.modules[name]
before = set(sys.modules)
import scfg_core
scfg_core.Settings.preset("default")
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def fresh_python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def test_core_imports_with_the_ecosystem_absent():
    done = fresh_python(f"BLOCKED = {ECOSYSTEM!r}\n{IMPORT_WITHOUT}")
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert not loaded - ALLOWED - set(sys.stdlib_module_names)


def imported(path):
    """(line, level, module) of every import statement of a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.level, node.module or ",".join(alias.name for alias in node.names)


ROOMS = ("method", "collect", "families", "run", "hosts")
"""Each imports from itself and from those before it; grid, prompt, errors and precision stand before all."""


def room_of(parts):
    """0 for the modules at the top, then the rooms in order."""
    return 1 + ROOMS.index(parts[0]) if len(parts) > 1 or parts[0] in ROOMS else 0


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(CORE).as_posix())
def test_core_module_imports_torch_and_einops_and_what_stands_before_it(path):
    parts = path.relative_to(CORE).parts
    for line, level, module in imported(path):
        if level:
            target = (*parts[: len(parts) - level], *module.split("."))
            assert level <= len(parts), f"{path.name}:{line} reaches outside the core: {'.' * level}{module}"
            if parts != ("__init__.py",):
                assert room_of(target) <= room_of(parts), f"{path.name}:{line} imports {'.'.join(target)}"
        else:
            root = module.partition(".")[0]
            allowed = ALLOWED | ({"triton"} if path.name == "kernels.py" else set())
            assert root in allowed | set(sys.stdlib_module_names), f"{path.name}:{line} imports {module}"


def test_every_public_name_exists_and_is_listed():
    import scfg_core

    assert len(MODULES) > 5
    assert sorted(scfg_core.__all__) == sorted(set(scfg_core.__all__))
    for name in scfg_core.__all__:
        assert getattr(scfg_core, name) is not None


@pytest.mark.parametrize(
    "name",
    [
        *("Settings", "LayerMaps", "Grid", "segment", "Segmentation", "ratio_map", "combine", "segment_entries"),
        *("scfg", "collect_maps", "Collection", "Run", "Prompt", "agreement"),
    ],
)
def test_promised_names_are_public(name):
    import scfg_core

    assert name in scfg_core.__all__
