"""A real ComfyUI in this process, on the CPU, or one visible line that says why there is none."""

import pytest

from . import host

HOST_WARNINGS = (
    "ignore:invalid escape sequence:DeprecationWarning",  # where the host is compiled for the first time
    "ignore:invalid escape sequence:SyntaxWarning",
    "ignore:To copy construct from a tensor:UserWarning",  # dpm_adaptive
    "ignore:Should have tb<=t1:UserWarning",  # torchsde, of the SDE samplers
)


def pytest_configure(config):
    for line in HOST_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(scope="session", autouse=True)
def comfyui():
    """The host, imported once; every host test is skipped where it cannot be."""
    problem = host.start()
    if problem:
        pytest.skip(f"host tests: {problem}", allow_module_level=True)


@pytest.fixture(scope="session")
def sd15(comfyui):
    return host.sd15()


@pytest.fixture(scope="session")
def sdxl(comfyui):
    return host.sdxl()
