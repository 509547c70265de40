"""S-CFG for ComfyUI: semantic-aware classifier-free guidance (CVPR 2024)."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI asks here for the nodes; the list is in `nodes/__init__.py`."""
    from .nodes import ScfgExtension

    return ScfgExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
