"""ComfyUI's page in a headless browser: opened, asked, run."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from ..comfyui.server import Server

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-sync"]
BROWSER = Path("/usr/bin/chromium")
READY_MS, RUN_MS = 120_000, 180_000
ARTEFACTS = Path(__file__).resolve().parents[2] / "out" / "web"


class ComfyPage:
    """One tab of the front end, in one of the two renderers. `complaints` are the page's errors and warnings."""

    def __init__(self, browser: Browser, server: Server, *, vue: bool, path: str = "/") -> None:
        self.server = server
        self.complaints: list[str] = []
        server.post("/settings", {"Comfy.VueNodes.Enabled": vue, "Comfy.TutorialCompleted": True})
        self.page: Page = browser.new_page(viewport={"width": 1500, "height": 950})
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.route(lambda url: not url.startswith((server.url, "data:", "blob:")), lambda way: way.abort())
        self.page.goto(server.url + path, wait_until="domcontentloaded", timeout=READY_MS)
        self.wait("() => window.app?.extensionManager && window.app.canvas?.graph")
        self.wait("() => !document.querySelector('#splash-loader')")

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def ask(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def wait(self, condition: str, argument: Any = None, timeout: float = READY_MS) -> None:
        self.page.wait_for_function(condition, arg=argument, timeout=timeout)

    def load(self, workflow: dict[str, Any]) -> None:
        """Load a workflow in UI form, as a dropped file would be."""
        self.ask("async graph => { await window.app.loadGraphData(graph) }", workflow)

    def shot(self, name: str) -> None:
        """A screenshot among the test artefacts."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f"{name}.png")

    def close(self) -> None:
        self.page.close()
