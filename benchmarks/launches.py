"""What our own part launches in one evaluation on a CUDA device, and the bytes that it moves: no GPU is needed.

A collector and a session run on tensors without values, as they would on a card of 24 GiB with fp16 models in their
true layouts, once by the Triton kernels and once by PyTorch. A launch is a dispatched operation that writes memory;
views and empty allocations are none, a Triton kernel is one. The bytes are those of every launch's operands and
results; the peak is that of our own tensors, beside those of the model.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scfg_core import Collection, Grid, Prompt, Run, Settings
from scfg_core.collect import backend as backends
from scfg_core.collect.backend import BACKENDS, BackendName
from scfg_core.collect.budget import GIB, MemoryBudget
from scfg_core.collect.calls import LayerCall, Layout, Rows
from scfg_core.collect.collector import Collector
from scfg_core.run.noise import NoiseLevel
from scfg_core.run.session import Placement, Predictions, Session

from .memory import LiveBytes
from .report import mib

CARD = 24 * GIB
TOKENS = 77
EMPTY = ("empty", "new_empty", "empty_like", "empty_strided", "_unsafe_view", "lift_fresh", "alias", "detach")
META = torch.device("meta")


@dataclass(frozen=True)
class Model:
    """The watched layers of a U-Net: (how often the latent is halved, heads, width of a head), in their order."""

    name: str
    layers: tuple[tuple[int, int, int], ...]
    latents: tuple[int, ...]


MODELS = (
    Model("SD 1.5", ((4, 8, 160), (4, 8, 160), (8, 8, 160), (4, 8, 160), (4, 8, 160), (4, 8, 160)), (64, 128)),
    Model("SDXL", ((4, 20, 64),) * 3 + ((2, 10, 64),) * 3, (128, 256)),
)


class Launches(TorchDispatchMode):
    """Counts the operations that write memory of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if _writes(func) and any(leaf.device == META for leaf in _tensors(result)):
            self.operations[str(func)] += 1
            operands = {id(leaf): leaf for leaf in _tensors((args, kwargs, result))}
            self.bytes += sum(_size(leaf) for leaf in operands.values())
        return result


class CudaAttention(TorchFunctionMode):
    """Where there is no device, PyTorch takes its attention apart; a CUDA device has one kernel for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return torch.ops.aten._scaled_dot_product_flash_attention(*args, scale=(kwargs or {})["scale"])[0]


def _writes(func: Any) -> bool:
    schema = func._schema
    if schema.name.split("::")[1] in EMPTY:
        return False
    aliases = [returned.alias_info for returned in schema.returns]
    return any(alias is None or alias.is_write for alias in aliases)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor; an axis that is expanded is read once."""
    sides = [side for side, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return torch.Size(sides).numel() * tensor.itemsize


def calls(model: Model, latent: int, images: int) -> list[LayerCall]:
    """One evaluation: self- and cross-attention of every watched layer, rows [unconditional; conditional]."""
    rows = [Rows("negative", slice(0, images)), Rows("positive", slice(images, 2 * images))]
    made = []
    for number, (scale, heads, width) in enumerate(model.layers):
        grid = Grid(latent // scale, latent // scale)
        patches, text = (
            torch.empty(2 * images, length, heads * width, device=META, dtype=torch.float16)
            .unflatten(-1, (heads, width))
            .transpose(1, 2)
            for length in (grid.area, TOKENS)
        )
        layer = f"layer {number}"
        made.append(LayerCall(layer, patches, patches, rows, grid, Layout.self_attention(grid)))
        made.append(LayerCall(layer, patches, text, rows, grid, Layout.cross_attention(TOKENS)))
    return made


def evaluate(session: Session, layers: Sequence[LayerCall], latent: int, images: int) -> None:
    """One evaluation as a host makes it."""
    session.begin({"positive": Prompt.plain("cond", TOKENS), "negative": Prompt.plain("uncond", TOKENS)})
    for call in layers:
        session.observe(call)
    x, cond, uncond = (torch.empty(images, 4, latent, latent, device=META, dtype=torch.float16) for _ in range(3))
    sigma = torch.empty(images, 1, 1, 1, device=META)
    predictions = Predictions(x, cond, uncond, NoiseLevel(1.0, sigma, "sample"), sigma, 7.0)
    if session.ratio(predictions, [Placement("positive")], [Placement("negative")]) is None:
        raise RuntimeError(f"the session gave up: {session.run.notes}")
    session.end_evaluation()


COLUMNS = {"name": "evaluation", "launches": "launches", "bytes": "bytes moved", "peak": "peak"}


@torch.no_grad()
def count(model: Model, latent: int, images: int, backend: BackendName) -> tuple[Launches, int]:
    """The launches of an evaluation that is not a run's first, and its peak in bytes."""
    settings, collection = Settings(), Collection()
    collector = Collector(settings, budget=MemoryBudget.for_device("cuda", CARD))
    session = Session(settings, collection, Run(), collector=collector)
    layers = calls(model, latent, images)
    with CudaAttention(), on_a_card(backend):
        evaluate(session, layers, latent, images)
        with Launches() as launches:
            evaluate(session, layers, latent, images)
        with LiveBytes() as memory:
            evaluate(session, layers, latent, images)
    return launches, memory.peak


@contextlib.contextmanager
def on_a_card(backend: BackendName) -> Iterator[None]:
    """What is chosen where Triton's kernels work, or where there are none."""
    found = {"_has_triton": lambda device: backend == "triton", "_proved": lambda *kind: True}
    with mock.patch.multiple(backends, **found):
        yield


def run() -> list[dict[str, Any]]:
    """A row for every model, latent, number of images and backend."""
    rows = []
    for model in MODELS:
        for latent, images, backend in product(model.latents, (1, 2, 4), BACKENDS):
            launches, peak = count(model, latent, images, backend)
            name = f"{model.name} {latent}², {images} image{'s' if images > 1 else ''}, {backend}"
            figures = {"launches": launches.operations.total(), "bytes": launches.bytes}
            rows.append({"name": name} | figures | {"peak_bytes": peak, "peak": mib(peak)})
    return rows
