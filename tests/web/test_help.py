"""The page shows our help in its own language, in its narrow panel, with nothing cut off."""

import json

import pytest

NODES = ("SCFGGuidance", "SCFGTokenMask", "SCFGDemoModel")

CUT_OFF = """content => [content, ...content.querySelectorAll('*')].filter(part =>
    part.scrollWidth > part.clientWidth + 1 && getComputedStyle(part).display !== 'inline').length"""


@pytest.fixture(params=["en", "ja"])
def tab(request, browser, server):
    from .page import ComfyPage

    server.post("/settings", {"Comfy.Locale": request.param})
    tab = ComfyPage(browser, server, vue=False)
    tab.language = request.param
    yield tab
    tab.close()
    server.post("/settings", {"Comfy.Locale": "en"})


def test_help_is_in_the_pages_language_and_fits_its_panel(page):
    from ..comfyui.server import FOLDER, PACK

    asked = []
    page.page.on("request", lambda request: asked.append(request.url.removeprefix(page.server.url)))
    titles = json.loads((PACK / "locales" / page.language / "nodeDefs.json").read_text(encoding="utf-8"))
    for kind in NODES:
        page.ask(
            """kind => {
                const node = LiteGraph.createNode(kind)
                app.rootGraph.add(node)
                app.canvas.selectNode(node)
                app.canvas.ds.scale = 1
                app.canvas.ds.offset = [300 - node.pos[0], 200 - node.pos[1]]
                app.canvas.setDirty(true, true)
            }""",
            kind,
        )
        page.page.get_by_test_id("info-button").first.click()
        content = page.page.locator(".node-help-content").first
        content.get_by_role("heading", name=titles[kind]["display_name"], exact=True).wait_for()
        content.locator("img").first.wait_for()
        assert f"/extensions/{FOLDER}/docs/{kind}/{page.language}.md" in asked
        assert content.locator("li").count() > 4 and content.locator("table").count() == 0
        assert content.evaluate(CUT_OFF) == 0
        page.shot(f"help-{page.language}-{kind}")
