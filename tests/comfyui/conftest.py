"""A real ComfyUI in this process, on the CPU, or one visible line that says why there is none."""

import importlib.util
import sys

import pytest

from . import host
from .server import PACK

HOST_WARNINGS = (
    "ignore:invalid escape sequence:DeprecationWarning",  # where the host is compiled for the first time
    "ignore:invalid escape sequence:SyntaxWarning",
    "ignore:To copy construct from a tensor:UserWarning",  # dpm_adaptive
    "ignore:Should have tb<=t1:UserWarning",  # torchsde, of the SDE samplers
)


def pytest_configure(config):
    for line in HOST_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Every host test is skipped where the host cannot be imported: raised here, all of them share one line."""
    problem = host.start()
    if problem:
        pytest.skip(f"host tests: {problem}")


@pytest.fixture(scope="session")
def comfyui():
    """For tests without a model of ours that import the host's modules."""


@pytest.fixture(scope="module")
def pack(comfyui):
    """The pack, imported as the host imports it: a package of any name."""
    name = "pack_under_test"
    spec = importlib.util.spec_from_file_location(
        name, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        del sys.modules[loaded]


@pytest.fixture(scope="session")
def sd15():
    return host.sd15()


@pytest.fixture(scope="session")
def sdxl():
    return host.sdxl()
