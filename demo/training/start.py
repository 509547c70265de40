"""The second stage: the key of START, taught by true masks of training scenes. No word's key or value changes.

A START that hardly varies tells nothing (Eq. 14), and where it varies by chance it takes regions from the words
(Eq. 9). The queries know what is a thing: a key that points away from things is all that is missing.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..model import DemoModel
from ..text import TextEncoder
from ..unet import attention_blocks
from ..words import PAD
from .attention import fuse, probe_all, propagate
from .settings import StartTraining
from .stage import Diffusion

OPENING = 0.5
"""How far the bias of the text encoder's norm moves along its gain, so that all words share a constant."""


class Start(Diffusion):
    """START is low on things where nothing is said, and below the words where something is."""

    s: StartTraining
    trained: nn.ParameterList
    mean: nn.ParameterList

    def __init__(self, model: DemoModel, s: StartTraining, device: str) -> None:
        model.unet.requires_grad_(False).to(device)
        model.text_encoder.requires_grad_(False).to(device)
        self.away_from_words = open_constant(model)
        self.blocks = attention_blocks(model.unet)
        first = [block.attn2.to_k.weight[:, 0].detach().clone() for block in self.blocks]
        super().__init__(model, nn.ParameterList(first), s, device)
        self.layers = probe_all(model.unet)

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.trained, self.s.rate, (0.9, 0.98))]

    def averaged(self) -> DemoModel:
        model = copy.deepcopy(self.model)
        set_start_keys(model, self.mean, self.away_from_words)
        return model

    def loss(self, rng: torch.Generator) -> Tensor:
        """Of the keys alone: what the layers get and make of them is taken as it is."""
        batch = self.feed(self.step)
        x0, ids = batch.latents, batch.ids
        count = len(ids)
        even = torch.rand(count, generator=rng, device=self.device)
        order = torch.randperm(count, generator=rng, device=self.device)
        t = ((order + even) / count * self.s.most_noise).long()
        x = self.noised(x0, t, torch.randn(x0.shape, generator=rng, device=self.device))
        empty = self.model.tokenizer([""] * count).to(self.device)
        with torch.no_grad():
            set_start_keys(self.model, self.trained, self.away_from_words)
            self.predict(torch.cat([x, x]), torch.cat([t, t]), torch.cat([empty, ids]))
        alone, said = self.maps_of_keys().chunk(2)

        taught = teach_foreground(alone, batch.things, t < self.s.most_taught, self.s.contrast)
        above = above_words(said, ids, self.s.word_margin) / self.s.contrast
        return taught + self.s.word_weight * above

    def maps_of_keys(self) -> Tensor:
        """Every token's map, as `token_maps`, with START's logits anew from the keys that are trained."""
        maps = []
        for layer, block, key in zip(self.layers, self.blocks, self.trained, strict=True):
            probe = layer.cross_attention
            key = rearrange(key * self.model.text_encoder.length, "(h d) -> h d 1", h=block.attn2.heads)
            logits = torch.cat([probe.queries @ key * block.attn2.scale, probe.logits[..., 1:]], dim=-1)
            maps.append(propagate(layer.self_attention.probabilities.mean(1), logits.softmax(-1).mean(1)))
        return fuse(maps)


def teach_foreground(maps: Tensor, things: Tensor, taught: Tensor, contrast: float) -> Tensor:
    """How badly START, where nothing is said, is below its mean on things and nowhere else, as Eq. 14 reads it.

    maps    (B, 256, L); things (B, 256): how much of each patch is thing; taught (B,) bool: rows that count.
    """
    weight = (1 + 2 * things) * taught[:, None]
    loss = F.binary_cross_entropy_with_logits(-maps[..., 0] / contrast, things, weight)
    return loss / weight.mean().clamp(min=1e-6)


def above_words(maps: Tensor, ids: Tensor, margin: float) -> Tensor:
    """How far START, where words are said, is not `margin` below the strongest word; words learn nothing from it.

    maps  (B, 256, L); ids (B, L).
    """
    strongest = maps.detach().masked_fill(~(ids > PAD)[:, None], -1).amax(-1)
    return (maps[..., 0] - strongest + margin).relu().mean()


@torch.no_grad()
def open_constant(model: DemoModel) -> Tensor:
    """Give all words one constant that keys can use, and change nothing else. Returns what reads it as 1: (63,).

    A word is gain · n + bias, where n is normalised, so that its sum is 0: (1 / gain) · word is then
    sum(bias / gain) for every word. The bias grows along the gain; keys and values are corrected for it.
    """
    norm = model.text_encoder.norm
    gain, reader = norm.weight, 1 / norm.weight
    constant = (norm.bias * reader).sum() + OPENING * len(gain)
    for block in attention_blocks(model.unet):
        for linear in (block.attn2.to_k, block.attn2.to_v):
            words = linear.weight[:, 1:]
            words -= OPENING * torch.outer(words @ gain, reader) / constant
    norm.bias += OPENING * gain
    return reader / constant


@torch.no_grad()
def set_start_keys(model: DemoModel, keys: nn.ParameterList, reader: Tensor) -> None:
    """Set START's key in every layer; words, which stand against START, keep theirs."""
    for block, key in zip(attention_blocks(model.unet), keys, strict=True):
        weight = block.attn2.to_k.weight
        change = key - weight[:, 0]
        weight[:, 0] += change
        against = TextEncoder.against_start * model.text_encoder.length * change
        weight[:, 1:] -= torch.outer(against, reader)
