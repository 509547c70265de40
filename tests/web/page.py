"""ComfyUI's page in a headless browser: opened, looked at, run, and its live views asked and pointed at."""

import json
import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserType, Page

from ..comfyui.server import FOLDER, PACK, Server

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 180_000
SOON_MS = 3_000
ARTEFACTS = PACK / "out" / "web"
STEPS = 20
"""Steps of the demo workflows."""

VIEWS = ("SCFGSegmentation", "SCFGScaleMap", "SCFGCurves", "MaskPreview")

HELPERS = """
window.nodesOf = type => window.app.canvas.graph.nodes.filter(node => node.type === type)
window.widgetOf = type => nodesOf(type)[0].widgets.find(each => each.name === 'scfg_live')
window.viewOf = type => widgetOf(type).view
window.wordsOf = type => [...viewOf(type).legend.element.querySelectorAll('.scfg-word:not([hidden])')]
window.framesOf = type => Number(viewOf(type).element.dataset.frames ?? 0)
window.placeOf = ([type, kind, text, x, y]) => {
  const view = viewOf(type), rect = view.canvas.getBoundingClientRect(), zoom = rect.width / view.canvas.clientWidth
  if (kind === 'word') {
    const word = wordsOf(type).find(each => each.title === text).getBoundingClientRect()
    return [word.left + word.width * x, word.top + word.height * y]
  }
  const {box} = view.areas.find(each => each.kind === kind)
  const inset = 4
  return [rect.left + (inset + box[0] + box[2] * x) * zoom, rect.top + (inset + box[1] + box[3] * y) * zoom]
}
const {api} = window.comfyAPI.api
window.heard = []
for (const name of ['scfg.step', 'scfg.run', 'execution_success', 'execution_error'])
  api.addEventListener(name, ({detail}) => heard.push([name, detail]))
"""


def executable(kind: BrowserType) -> str | None:
    """The system's browser, else the one that Playwright brought; None where there is neither."""
    own = kind.executable_path
    return next(filter(None, map(shutil.which, BROWSERS)), own if Path(own).is_file() else None)


NEVER = 2
"""A node's mode: muted."""


def guided_only(seed: int) -> dict[str, Any]:
    """The demo workflow from another seed, of whose pictures only that by S-CFG is made."""
    graph = workflow("scfg_demo", seed)
    shown = [node for node in graph["nodes"] if node["type"] == "PreviewImage"]
    for node in graph["nodes"]:
        if node in shown[:-1] or node["type"] in VIEWS:
            node["mode"] = NEVER
    return graph


def workflow(name: str, seed: int | None = None) -> dict[str, Any]:
    """A workflow of the pack in UI form, its KSamplers with another seed."""
    graph = json.loads((PACK / "workflows" / f"{name}.json").read_text())
    for node in graph["nodes"]:
        if node["type"] == "KSampler" and seed is not None:
            node["widgets_values"][0] = seed
    return graph


class ComfyPage:
    """One tab of the front end, in one of its two renderers. `complaints` are errors and warnings that are ours."""

    def __init__(self, browser: Browser, server: Server, *, vue: bool) -> None:
        self.server = server
        self.complaints: list[str] = []
        start = {"Comfy.TutorialCompleted": True, "Comfy.RightSidePanel.IsOpen": False}
        server.post("/settings", {"Comfy.VueNodes.Enabled": vue, **start})
        self.page: Page = browser.new_page(viewport={"width": 1500, "height": 950})
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", self._heard)
        self.page.on("pageerror", self._failed)
        self.page.route(lambda url: not url.startswith((server.url, "data:", "blob:")), lambda way: way.abort())
        self.open()

    def open(self) -> None:
        """Open the page, or reload it."""
        self.page.goto(self.server.url, wait_until="domcontentloaded")
        self.wait(
            "() => window.app?.extensionManager && window.app.canvas?.graph && window.comfyAPI?.api.api.clientId"
        )
        self.wait("() => !document.querySelector('#splash-loader')")
        self.ask(f"() => {{ {HELPERS} }}")

    def _heard(self, message: Any) -> None:
        said = f"{message.text} ({message.location.get('url', '')})"
        if message.type in ("error", "warning") and (FOLDER in said or "scfg" in said.casefold()):
            self.complaints.append(said)

    def _failed(self, error: Any) -> None:
        if FOLDER in (error.stack or ""):
            self.complaints.append(str(error))

    def ask(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def wait(self, condition: str, argument: Any = None) -> None:
        """Wait until a condition holds; what it looks at need not be there yet."""
        patient = f"""argument => {{
            try {{ return ({condition})(argument) }}
            catch (error) {{ if (error instanceof TypeError) return false; throw error }}
        }}"""
        self.page.wait_for_function(patient, arg=argument)

    def close(self) -> None:
        self.page.close()

    def shot(self, name: str) -> None:
        """A screenshot among the test artefacts."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png")

    # the graph

    def load(self, graph: dict[str, Any]) -> None:
        """Load a workflow in UI form, as a dropped file would be."""
        self.ask("async graph => { await window.app.loadGraphData(graph) }", graph)

    def look_at(self, kind: str) -> None:
        """Bring the live view of the first node of a kind into sight, unscaled."""
        self.ask(
            """kind => {
                const node = nodesOf(kind)[0], view = app.canvas.ds
                view.scale = 1
                view.offset = [150 - node.pos[0], 600 - node.pos[1] - node.size[1]]
                app.canvas.setDirty(true, true)
            }""",
            kind,
        )
        self.wait("kind => viewOf(kind).canvas.getBoundingClientRect().width > 50", kind)

    def set(self, kind: str, name: str, value: Any) -> None:
        """Set a widget of all nodes of a kind."""
        self.ask(
            """([kind, name, value]) => nodesOf(kind).forEach(node => {
                node.widgets.find(widget => widget.name === name).value = value
            })""",
            [kind, name, value],
        )

    def run(self) -> None:
        """Press Run, as a user does, the mouse coming from the graph: over a workflow's tab it shows a thumbnail,
        which lies over the button in newer front ends.
        """
        self.page.mouse.move(5, 500)
        self.page.get_by_test_id("queue-button").click()

    def ended(self, runs: int = 1) -> None:
        """Wait until so many runs have ended well since the page was opened or `forget` was called."""
        self.wait("runs => heard.filter(([name]) => name.startsWith('execution_')).length >= runs", runs)
        assert self.ask("() => heard.filter(([name]) => name === 'execution_error')") == []

    def forget(self) -> None:
        self.ask("() => { heard.length = 0 }")
        self.complaints.clear()

    def events(self) -> list[dict[str, Any]]:
        """The live view's events that came to this page."""
        return self.ask("() => heard.filter(([name]) => name === 'scfg.step').map(([, detail]) => detail)")

    # the live view of the first node of a kind

    def filled(self, kind: str, frames: int = STEPS) -> None:
        """Wait until it has drawn so many frames."""
        self.wait("([kind, frames]) => nodesOf(kind).length && framesOf(kind) === frames", [kind, frames])

    def shows_the_last_run(self, kind: str, frames: int = STEPS) -> None:
        """Wait until it has drawn so many frames of the run that ended last."""
        self.wait(
            """([kind, frames]) => {
                const end = heard.findLast(([name]) => name === 'scfg.run')
                return end && viewOf(kind).run === end[1].run && framesOf(kind) === frames
            }""",
            [kind, frames],
        )

    def label(self, kind: str) -> str:
        """Its label for screen readers, which describes what it shows."""
        return self.ask("kind => viewOf(kind).canvas.getAttribute('aria-label')", kind)

    def shows(self, kind: str, part: str) -> None:
        """Wait until its label has this part."""
        self.wait("([kind, part]) => viewOf(kind).canvas.getAttribute('aria-label').includes(part)", [kind, part])

    def legend(self, kind: str) -> list[str]:
        """The words that it shows, in their order."""
        return self.ask("kind => wordsOf(kind).map(word => word.title)", kind)

    def says(self, kind: str, part: str) -> None:
        """Wait until its text has this part: the status of the run, or why there is nothing to see."""
        self.wait("([kind, part]) => viewOf(kind).element.innerText.includes(part)", [kind, part])

    def place(self, kind: str, area: str, text: str | None, x: float, y: float) -> list[float]:
        """A position 0…1 in one of its areas, on the page, once nothing moves it any more."""
        return self.ask(
            """async where => {
                let place, before
                do {
                    before = place
                    await new Promise(resolve => setTimeout(resolve, 150))
                    place = placeOf(where)
                } while (String(place) !== String(before))
                return place
            }""",
            [kind, area, text, x, y],
        )

    def point(self, kind: str, area: str, text: str | None = None, x: float = 0.5, y: float = 0.5) -> None:
        """Move the mouse to a position 0…1 in one of its areas: an image, the slider, a word of the legend."""
        self.page.mouse.move(*self.place(kind, area, text, x, y))

    def reads(self, kind: str, part: str, x: float, y: float) -> None:
        """Point at a position 0…1 of its first image until its label has this part."""
        from playwright.sync_api import TimeoutError

        has = "([kind, part]) => viewOf(kind).canvas.getAttribute('aria-label').includes(part)"
        for _ in range(WAIT_MS // SOON_MS):
            self.page.mouse.move(5, 500)
            self.point(kind, "image", x=x, y=y)
            try:
                self.page.wait_for_function(has, arg=[kind, part], timeout=SOON_MS)
                return
            except TimeoutError:
                continue  # the page was still moving under the mouse
        self.shows(kind, part)

    def click(self, kind: str, area: str, text: str | None = None, x: float = 0.5) -> None:
        self.page.mouse.click(*self.place(kind, area, text, x, 0.5))
