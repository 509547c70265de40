"""What the U-Net and the host's CFG really did in a run, seen by hooks on the modules: none of the product's ways.

Rows of a batch are told apart by what they carry: the tokens of the prompt, and the piece of the noisy picture.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import oracle
from . import host

Area = tuple[int, int, int, int]
PROJECTIONS = ("attn1.to_q", "attn1.to_k", "attn2.to_q", "attn2.to_k")


@dataclass
class Call:
    """One call of the U-Net: its input x, its tokens, and per transformer block the projected q, k and the grid."""

    x: Tensor
    context: Tensor
    projected: dict[str, Tensor] = field(default_factory=dict)
    grids: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Evaluation:
    """The U-Net's calls for one main batch of conditionings, what the host's CFG was given and made of it.

    args    of the first post-CFG function after S-CFG's; `result` is what all of them made of it.
    """

    calls: list[Call] = field(default_factory=list)
    args: dict[str, Any] = field(default_factory=dict)
    result: Tensor = field(default_factory=lambda: torch.empty(0))


class Probe:
    """Watches a model's modules while it is entered, and the CFG of `patcher`, its clone."""

    def __init__(self, patcher: Any) -> None:
        self.patcher = patcher.clone()
        self.evaluations: list[Evaluation] = []
        self.extra_calls = 0
        self._open: Evaluation | None = None
        self._blocks = {
            name: block
            for name, block in host.unet(patcher).named_modules()
            if name.split(".")[-2:-1] == ["transformer_blocks"]
        }
        self.patcher.add_wrapper_with_key("predict_noise", "probe", self._predict_noise)
        self.patcher.set_model_sampler_post_cfg_function(self._post_cfg)

    def __deepcopy__(self, memo: dict) -> "Probe":
        """Older hosts copy the model options deeply where they clone a model."""
        return self

    def __enter__(self) -> "Probe":
        unet = host.unet(self.patcher)
        self._handles = [unet.register_forward_pre_hook(self._called, with_kwargs=True)]
        for name, block in self._blocks.items():
            spatial = unet.get_submodule(name.rsplit(".", 2)[0])
            self._handles.append(spatial.register_forward_pre_hook(self._sized(name)))
            for part in PROJECTIONS:
                module = block.get_submodule(part)
                self._handles.append(module.register_forward_hook(self._projected(f"{name}.{part}")))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @property
    def calls(self) -> int:
        """Calls of the U-Net that ran its layers, for the main batches of all evaluations."""
        return sum(bool(call.projected) for each in self.evaluations for call in each.calls)

    def _predict_noise(self, executor, *args, **kwargs):
        evaluation = self._open = Evaluation()
        self.evaluations.append(evaluation)
        evaluation.result = executor(*args, **kwargs)
        return evaluation.result

    def _post_cfg(self, args):
        assert self._open is not None
        self._open.args, self._open = dict(args), None
        return args["denoised"]

    def _called(self, _module, args, kwargs):
        if self._open is None:
            self.extra_calls += 1
        else:
            self._open.calls.append(Call(args[0], kwargs["context"]))

    def _sized(self, name: str):
        def hook(_module, args):
            if self._open is not None:
                self._open.calls[-1].grids[name] = tuple(args[0].shape[2:])

        return hook

    def _projected(self, name: str):
        def hook(_module, _args, output):
            if self._open is not None:
                self._open.calls[-1].projected[name] = output

        return hook

    # what the calls say about one entry and image

    def layer_maps(
        self, index: int, layers: tuple[str, ...], text: Tensor, image: int, area: Area | None
    ) -> list[tuple[np.ndarray, np.ndarray, tuple[int, int]]]:
        """(S, C, grid) per layer, of one image under the prompt `text` (1 or images, L, width)."""
        evaluation = self.evaluations[index]
        call, row = self._find(evaluation, text[image % len(text)], image, area)
        maps = []
        for name in layers:
            heads = self._blocks[name].attn1.heads
            q1, k1, q2, k2 = (_heads(call.projected[f"{name}.{part}"][row], heads) for part in PROJECTIONS)
            own, cross = oracle.head_mean(q1, k1), oracle.head_mean(q2, k2)
            maps.append((own, oracle.fold_repeats(cross, text.shape[1]), call.grids[name]))
        return maps

    def _find(self, evaluation: Evaluation, text: Tensor, image: int, area: Area | None) -> tuple[Call, int]:
        picture = evaluation.args["input"][image] / (evaluation.args["sigma"][0] ** 2 + 1) ** 0.5
        if area is not None:
            h, w, y, x = area
            picture = picture[:, y : y + h, x : x + w]
        found = [
            (call, row)
            for call in evaluation.calls
            for row in range(len(call.x))
            if _repeats(call.context[row], text) and _same_picture(call.x[row, :4], picture)
        ]
        assert len(found) == 1, f"{len(found)} rows carry this prompt and picture"
        return found[0]


def _repeats(context: Tensor, text: Tensor) -> bool:
    copies, rest = divmod(len(context), len(text))
    return rest == 0 and torch.equal(context, text.to(context.dtype).repeat(copies, 1))


def _same_picture(x: Tensor, picture: Tensor) -> bool:
    tolerance = 1e-5 if x.dtype == torch.float32 else 2e-2
    return x.shape == picture.shape and torch.allclose(x.float(), picture, rtol=tolerance, atol=tolerance)


def _heads(projected: Tensor, heads: int) -> np.ndarray:
    return projected.double().unflatten(-1, (heads, -1)).movedim(-2, 0).numpy()
