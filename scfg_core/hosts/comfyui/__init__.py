"""ComfyUI as a host: late-bound observation of the attention, and guidance in its CFG slot."""

from .attach import guide, observe
from .follow_request import follow_words

__all__ = ["follow_words", "guide", "observe"]
