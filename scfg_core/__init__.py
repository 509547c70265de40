"""S-CFG: semantic-aware classifier-free guidance (Shen et al., CVPR 2024, arXiv 2404.05384).

In a diffusers pipeline:

    with scfg(pipeline) as run:
        image = pipeline("a horse on the grass").images[0]

With a sampler of your own, step by step:

    segmentation = segment(cond_layers, uncond_layers, settings)      # LayerMaps from `collect_maps`, or your own
    ratio = ratio_map(eps_cond - eps_uncond, segmentation, settings, guidance_scale)
    eps = combine(eps_cond, eps_uncond, ratio, guidance_scale)

Rooms: `method` is the paper, one file per stage; `collect` turns the q and k of a running model into maps;
`families` is what is known of transformers; `run` is one sampling run; `hosts` connects it to ComfyUI and
diffusers.
"""

from .errors import ScfgError, SettingsError, ShapeError
from .grid import Grid
from .hosts.diffusers import collect_maps, scfg
from .method.entries import Area, EntryMaps
from .method.fusion import TokenMaps
from .method.guidance import combine, guidance_norm, ratio_map, rescale
from .method.segment import UNOWNED, LayerMaps, Segmentation, segment, segment_entries
from .method.settings import PRESETS, Settings, uniform_powers
from .prompt import Prompt
from .run.agreement import agreement
from .run.evaluation import Evaluation
from .run.notes import Note
from .run.record import Run
from .run.session import Collection
from .run.weights import WordWeight, WordWeights, parse_weights
from .run.words import labels_of

__all__ = [
    "PRESETS",
    "UNOWNED",
    "Area",
    "Collection",
    "EntryMaps",
    "Evaluation",
    "Grid",
    "LayerMaps",
    "Note",
    "Prompt",
    "Run",
    "ScfgError",
    "Segmentation",
    "Settings",
    "SettingsError",
    "ShapeError",
    "TokenMaps",
    "WordWeight",
    "WordWeights",
    "agreement",
    "collect_maps",
    "combine",
    "guidance_norm",
    "labels_of",
    "parse_weights",
    "ratio_map",
    "rescale",
    "scfg",
    "segment",
    "segment_entries",
    "uniform_powers",
]
