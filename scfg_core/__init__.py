"""S-CFG: semantic-aware classifier-free guidance (Shen et al., CVPR 2024, arXiv 2404.05384).

The method, one file per stage of the paper: `attention` (Eq. 8) → `propagation` (Eq. 10) → `fusion` and
`segmentation` (Eq. 9, 14) → `guidance` (Eq. 13, 12). With maps of your own:

    segmentation = segment(cond_layers, uncond_layers, settings)
    ratio = ratio_map(eps_cond - eps_uncond, segmentation, settings, guidance_scale)
    eps = combine(eps_cond, eps_uncond, ratio, guidance_scale)

`collector` is the streaming form for samplers, `hosts` connects it to ComfyUI and diffusers.
"""

from .entries import Area, EntryMaps
from .errors import ScfgError, SettingsError, ShapeError
from .fusion import TokenMaps
from .grid import Grid
from .guidance import combine, guidance_norm, ratio_map, rescale
from .segmentation import UNOWNED, LayerMaps, Segmentation, segment, segment_entries
from .settings import PRESETS, Settings, uniform_powers

__all__ = [
    "PRESETS",
    "UNOWNED",
    "Area",
    "EntryMaps",
    "Grid",
    "LayerMaps",
    "ScfgError",
    "Segmentation",
    "Settings",
    "SettingsError",
    "ShapeError",
    "TokenMaps",
    "combine",
    "guidance_norm",
    "ratio_map",
    "rescale",
    "segment",
    "segment_entries",
    "uniform_powers",
]
