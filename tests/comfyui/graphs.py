"""Workflows in the API form, on the demo model."""

from typing import Any

Prompt = dict[str, Any]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def demo(positive: str, negative: str = "", width: int = 256, height: int = 256, batch: int = 1) -> Prompt:
    """The part that every run shares: model, clip and vae (1), both prompts (2, 3), an empty latent (4)."""
    return {
        "1": node("SCFGDemoModel"),
        "2": node("CLIPTextEncode", text=positive, clip=["1", 1]),
        "3": node("CLIPTextEncode", text=negative, clip=["1", 1]),
        "4": node("EmptyLatentImage", width=width, height=height, batch_size=batch),
    }


def guidance(strength: float = 1.0, preset: str = "default", **custom: Any) -> dict[str, Any]:
    settings = {"strength": strength, "start_percent": 0.0, "end_percent": 1.0, "preset": preset}
    return node("SCFGGuidance", model=["1", 0], **settings, **custom)


def sampled(prompt: Prompt, name: str, model: list, seed: int = 1, steps: int = 4, **changes: Any) -> Prompt:
    """KSampler, VAEDecode and SaveImage on `model`, as nodes `name`, `name`_pixels and `name`_file."""
    how = {"seed": seed, "steps": steps, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    sampler = how | {"positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]} | changes
    return prompt | {
        name: node("KSampler", model=model, **sampler),
        f"{name}_pixels": node("VAEDecode", samples=[name, 0], vae=["1", 2]),
        f"{name}_file": node("SaveImage", images=[f"{name}_pixels", 0], filename_prefix=name),
    }
