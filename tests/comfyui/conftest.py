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


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Every host test is skipped where the host cannot be imported: raised here, all of them share one line."""
    problem = host.start()
    if problem:
        pytest.skip(f"host tests: {problem}")


@pytest.fixture(scope="session")
def comfyui():
    """For tests without a model of ours that import the host's modules."""


@pytest.fixture(scope="session")
def sd15():
    return host.sd15()


@pytest.fixture(scope="session")
def sdxl():
    return host.sdxl()
