"""A real server and a real browser, or one visible line that says what is missing."""

from importlib.util import find_spec

import pytest

CLASSIC, NODES_2 = "classic", "nodes2"


@pytest.fixture(scope="session")
def browser():
    for package in ("playwright", "aiohttp"):
        if find_spec(package) is None:
            pytest.skip(f"browser tests: no {package} in this Python")
    from playwright.sync_api import sync_playwright

    from .page import FLAGS, executable

    with sync_playwright() as playwright:
        path = executable(playwright.chromium)
        if path is None:
            pytest.skip("browser tests: no Chromium on this machine")
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(browser):
    from ..comfyui.server import Server, host_folder

    if not (host_folder() / "comfyui_version.py").is_file():
        pytest.skip(f"browser tests: no ComfyUI at {host_folder()}; set COMFYUI_PATH")
    with Server() as server:
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
