"""A real server and a real browser, or one visible line that says what is missing.

SCFG_FRONT_END names the folder of another front end than the host's own.
"""

import os
from functools import cache
from importlib.util import find_spec

import pytest

CLASSIC, NODES_2 = "classic", "nodes2"


@cache
def missing() -> str | None:
    """What these tests need and is not here."""
    for package in ("playwright", "aiohttp"):
        if find_spec(package) is None:
            return f"no {package} in this Python"
    from playwright.sync_api import sync_playwright

    from ..comfyui.server import host_folder
    from .page import executable

    if not (host_folder() / "comfyui_version.py").is_file():
        return f"no ComfyUI at {host_folder()}; set COMFYUI_PATH"
    with sync_playwright() as playwright:
        return None if executable(playwright.chromium) else "no Chromium on this machine"


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Raised here, all skips share one line."""
    if missing():
        pytest.skip(f"browser tests: {missing()}")


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    from .page import FLAGS, executable

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(playwright.chromium), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(browser):
    from ..comfyui.server import Server

    front_end = os.environ.get("SCFG_FRONT_END")
    with Server(*(("--front-end-root", front_end) if front_end else ())) as server:
        yield server


@pytest.fixture(scope="module", params=[CLASSIC, NODES_2])
def tab(request, browser, server):
    """A tab in each of the two renderers; a module's tests share it."""
    from .page import ComfyPage

    tab = ComfyPage(browser, server, vue=request.param == NODES_2)
    tab.renderer = request.param
    yield tab
    tab.close()


@pytest.fixture
def page(tab):
    """The tab, with nothing heard yet; no complaint of the page may be ours."""
    tab.forget()
    yield tab
    assert tab.complaints == []
