"""The pack's templates: their names and nodes, and what their loaders need to find on the server."""

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..comfyui.server import Server

TEMPLATES = Path(__file__).resolve().parents[2] / "workflows"
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.json"))
MODELS = {
    "CheckpointLoaderSimple": "checkpoints",
    "ControlNetLoader": "controlnet",
    "UNETLoader": "diffusion_models",
    "CLIPLoader": "text_encoders",
    "VAELoader": "vae",
    "CreateHookLora": "loras",
}


def nodes_of(name: str) -> list[dict[str, Any]]:
    return json.loads((TEMPLATES / f"{name}.json").read_text())["nodes"]


def place_files(server: "Server") -> None:
    """The input image of the templates, and an empty file in place of every model."""
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "PNG")
    server.place("input/example.png", picture.getvalue())
    for node in (node for name in NAMES for node in nodes_of(name) if node["type"] in MODELS):
        server.place(f"models/{MODELS[node['type']]}/{node['widgets_values'][0]}")
