"""ComfyUI as a host: late-bound observation of the attention, and guidance in its CFG slot."""

from .attach import guide, observe

__all__ = ["guide", "observe"]
