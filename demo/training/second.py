"""The third stage: captions that are wrong now and then, as real ones are, so that guidance has something to do.

START is taught by true masks of training scenes. Words are not: their maps, and that of END, are held to those that
the first model made by itself, at the noise level where it makes them best.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model import DemoModel
from ..words import COLOURS, END, GROUNDS, NOUNS, PAD, SKIES, VOCABULARY
from .attention import probe_all, token_maps, unfair_shares
from .settings import SecondTraining
from .stage import WholeModel, sample_times
from .start import above_words, teach_foreground


class Second(WholeModel):
    """All weights. The first rows of each batch have the empty prompt, the others their captions."""

    s: SecondTraining

    def __init__(self, model: DemoModel, first: DemoModel, s: SecondTraining, device: str) -> None:
        super().__init__(model, s, device)
        self.layers = probe_all(model.unet)
        self.first = copy.deepcopy(first)
        self.first.unet.requires_grad_(False).to(device)
        self.first.text_encoder.requires_grad_(False).to(device)
        self.first_layers = probe_all(self.first.unet)

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        attention, others = [], []
        for name, parameter in self.trained.named_parameters():
            (attention if ".to_q." in name or ".to_k." in name else others).append(parameter)
        groups = [{"params": attention, "weight_decay": self.s.decay}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.AdamW(groups, self.s.rate, (0.9, 0.98))]

    def loss(self, rng: torch.Generator) -> Tensor:
        s, empty = self.s, self.s.empty_rows
        batch = self.feed(self.step)
        x0, ids = batch.latents, self.with_errors(batch.ids, rng)
        ids[:empty] = self.model.tokenizer([""]).to(self.device)
        steps = len(self.alphas_cumprod)
        t = torch.cat([sample_times(count, steps, s, rng) for count in (empty, len(ids) - empty)])
        noise = torch.randn(x0.shape, generator=rng, device=self.device)
        out = self.predict(self.noised(x0, t, noise), t, ids)
        error = (out - self.velocity(x0, t, noise)).square().mean((1, 2, 3))
        probabilities = [layer.cross_attention.probabilities for layer in self.layers]
        unfair = unfair_shares(probabilities, ids > PAD, s.least_share, s.most_rest)

        maps = token_maps(self.layers)
        taught = t < s.most_taught
        foreground = teach_foreground(maps[:empty], batch.things[:empty], taught[:empty], s.contrast)
        above = above_words(maps[empty:], ids[empty:], s.word_margin) / s.contrast
        held = self.distance_from_first(maps[empty:], x0[empty:], t[empty:], noise[empty:], ids[empty:])
        return (
            self.balanced(error, t)
            + s.share_weight * unfair
            + s.foreground_weight * foreground
            + s.word_weight * above
            + s.hold_weight * held
        )

    def with_errors(self, ids: Tensor, rng: torch.Generator) -> Tensor:
        """Captions in which some words are another of their kind."""
        odds = (self.s.wrong_colours, self.s.wrong_nouns, self.s.wrong_backdrops, self.s.wrong_backdrops)
        for words, odd in zip((COLOURS, NOUNS, GROUNDS, SKIES), odds, strict=True):
            first = VOCABULARY.index(words[0])
            hit = (ids >= first) & (ids < first + len(words))
            hit &= torch.rand(ids.shape, generator=rng, device=self.device) < odd
            other = torch.randint(len(words), ids.shape, generator=rng, device=self.device)
            ids = torch.where(hit, first + other, ids)
        return ids

    def distance_from_first(self, maps: Tensor, x0: Tensor, t: Tensor, noise: Tensor, ids: Tensor) -> Tensor:
        """1 − cosine between the maps of the words and END and those of the first model on the same scenes."""
        with torch.no_grad():
            t = t.clamp(min=self.s.hold_noise)
            context = self.first.text_encoder(ids)
            self.first.unet(self.noised(x0, t, noise), t, encoder_hidden_states=context)
            aim = token_maps(self.first_layers)
        held = ((ids > PAD) | (ids == END))[:, None]
        return 1 - F.cosine_similarity((maps * held).flatten(1), (aim * held).flatten(1)).mean()
