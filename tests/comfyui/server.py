"""A real ComfyUI server on loopback with the pack linked into it, and what a client does with it.

with Server() as server:
    run = server.run(prompt)          # in API form
    run.pictures["9"][0]              # uint8 (H, W, 3)
"""

import asyncio
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from PIL import Image

PACK = Path(__file__).resolve().parents[2]
FOLDER = "some_folder_name"
"""What the pack's folder is called there: nothing may depend on it."""

TEXT_EVENT = 3
START_SECONDS, RUN_SECONDS = 300, 600


def host_folder() -> Path:
    return Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()


@dataclass
class Finished:
    """A run as its client saw it.

    error     the host's message where a node failed.
    executed  the nodes that ran, in order; the others were cached.
    events    every JSON message (type, data), in order; texts: (node id, text) of the text messages.
    pictures  by node id.
    """

    error: str | None = None
    executed: list[str] = field(default_factory=list)
    events: list[tuple[str, dict]] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    pictures: dict[str, list[np.ndarray]] = field(default_factory=dict)

    @property
    def frames(self) -> list[dict]:
        """Frames of the live view, in the order in which they came."""
        return [data for kind, data in self.events if kind == "scfg.step"]


class Server:
    """`url` answers while the context is open; everything it wrote goes with it. `log()` says what it printed."""

    def __init__(self, *arguments: str) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="scfg_server_"))
        for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
            (self._base / name).mkdir()
        (self._base / "custom_nodes" / FOLDER).symlink_to(PACK, target_is_directory=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        database = ["--database-url", "sqlite:///:memory:"]
        place = ["--base-directory", str(self._base), "--listen", "127.0.0.1", "--port", str(port)]
        quiet = ["--cpu", "--disable-auto-launch", "--disable-api-nodes"]
        self._command = [sys.executable, "-s", "main.py", *quiet, *place, *database, *arguments]

    def __enter__(self) -> "Server":
        environment = dict(os.environ, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
        self._output = open(self._base / "log.txt", "w")
        self._process = subprocess.Popen(
            self._command,
            cwd=host_folder(),
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = self.log()
                self.__exit__()
                raise RuntimeError(f"the server did not start:\n{said[-4000:]}")
            time.sleep(0.3)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._output.close()
        shutil.rmtree(self._base, ignore_errors=True)

    def log(self) -> str:
        return (self._base / "log.txt").read_text(errors="replace")

    def place(self, name: str, content: bytes = b"") -> None:
        """Put a file into the host's base folder: an input, or an empty one in place of a checkpoint."""
        path = self._base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if "json" in answer.headers.get("Content-Type", "") else body

    def post(self, path: str, body: Any) -> Any:
        """The answer; what the host says of a refused body comes as its answer too."""
        data, kind = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data, kind), timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def run(self, prompt: dict[str, Any], client: str | None = None, frames: int = 0) -> Finished:
        """Queue a prompt as a client that listens, and wait for its end and for so many live frames, which a thread
        of their own sends; in a thread here too, for this one may have a loop.
        """
        listening = asyncio.wait_for(self._run(prompt, client or uuid.uuid4().hex, frames), RUN_SECONDS)
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, listening).result()

    async def _run(self, prompt: dict[str, Any], client: str, frames: int) -> Finished:
        run, ended = Finished(), False
        address = f"{self.url}/ws?clientId={client}"
        async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
            answer = await asyncio.to_thread(self.post, "/prompt", {"prompt": prompt, "client_id": client})
            if "prompt_id" not in answer:
                raise AssertionError(f"the host refused the prompt: {answer}")
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    _read_text(message.data, run)
                elif message.type is aiohttp.WSMsgType.TEXT:
                    ended |= _read_event(json.loads(message.data), run)
                if ended and len(run.frames) >= frames:
                    break
        identifier = answer["prompt_id"]
        outputs = (await asyncio.to_thread(self.get, f"/history/{identifier}"))[identifier]["outputs"]
        for node, output in outputs.items():
            run.pictures[node] = [self.picture(each) for each in output.get("images", ())]
        return run

    def picture(self, place: dict[str, str]) -> np.ndarray:
        """A picture that a node saved or previewed, uint8 (H, W, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.get("/view?" + urllib.parse.urlencode(place)))).convert("RGB"))

    def _answers(self) -> bool:
        try:
            self.get("/system_stats")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True


def _read_event(message: dict[str, Any], run: Finished) -> bool:
    """Note an event; True where it is the last one: the host has written the history by then."""
    kind, data = message["type"], message.get("data") or {}
    run.events.append((kind, data))
    if kind == "executing" and data["node"] is not None:
        run.executed.append(data["node"])
    if kind == "execution_error":
        run.error = data["exception_message"]
    return kind == "executing" and data["node"] is None


def _read_text(data: bytes, run: Finished) -> None:
    """Note a text message: event number, length of the node id, the node id, the text."""
    if int.from_bytes(data[:4], "big") == TEXT_EVENT:
        length = int.from_bytes(data[4:8], "big")
        run.texts.append((data[8 : 8 + length].decode(), data[8 + length :].decode()))
