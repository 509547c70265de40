"""The first stage: everything from nothing, on scenes and their captions alone."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ..model import build_model
from ..unet import attention_blocks
from ..words import PAD
from .attention import probe_text, unfair_shares
from .muon import Muon
from .settings import FirstTraining
from .stage import WholeModel, sample_times


class First(WholeModel):
    """v-prediction of scenes with their captions; every head shares its attention fairly."""

    s: FirstTraining

    def __init__(self, s: FirstTraining, device: str) -> None:
        torch.manual_seed(s.seed)
        model = build_model()
        start_text_attention(model.unet, s.start_logit, model.text_encoder.length)
        super().__init__(model, s, device)
        self.probes = probe_text(model.unet)

    def make_optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices inside the network, AdamW for everything else."""
        attention, matrices, others = [], [], []
        for name, parameter in [*self.model.unet.named_parameters(), *self.model.text_encoder.named_parameters()]:
            at_the_edge = name.startswith(("conv_in", "conv_out", "word", "time_embedding"))
            if parameter.ndim < 2 or at_the_edge:
                others.append(parameter)
            else:
                (attention if ".to_q." in name or ".to_k." in name else matrices).append(parameter)
        groups = [{"params": matrices}, {"params": attention, "decay": self.s.attention_decay}]
        return [
            Muon(groups, self.s.matrix_rate, self.s.momentum),
            torch.optim.AdamW(others, self.s.other_rate, (0.9, 0.98), weight_decay=0),
        ]

    def loss(self, rng: torch.Generator) -> Tensor:
        batch = self.feed(self.step)
        x0, ids = batch.latents, batch.ids
        dropped = torch.rand(len(ids), generator=rng, device=self.device) < self.s.empty_prompts
        ids = torch.where(dropped[:, None], self.model.tokenizer([""]).to(self.device), ids)
        t = sample_times(len(ids), len(self.alphas_cumprod), self.s, rng)
        noise = torch.randn(x0.shape, generator=rng, device=self.device)
        out = self.predict(self.noised(x0, t, noise), t, ids)
        error = (out - self.velocity(x0, t, noise)).square().mean((1, 2, 3))
        probabilities = [probe.probabilities for probe in self.probes]
        unfair = unfair_shares(probabilities, ids > PAD, self.s.least_share, self.s.most_rest)
        return self.balanced(error, t) + self.s.share_weight * unfair


@torch.no_grad()
def start_text_attention(unet: nn.Module, start: float, length: float) -> None:
    """Fresh queries and keys for the text, with START drawing the attention everywhere: words earn theirs.

    Queries get a constant part (the bias of the norm before them), and the key of START (context channel 0, of
    size `length`) is laid along it, so that its logit is about `start`. Its value starts at zero: it says nothing.
    """
    for block in attention_blocks(unet):
        norm, attention = block.norm2, block.attn2
        attention.to_q.reset_parameters()
        attention.to_k.reset_parameters()
        norm.reset_parameters()
        norm.bias.normal_(0, 0.5)
        constant = rearrange(attention.to_q.weight @ norm.bias, "(h d) -> h d", h=attention.heads)
        along = constant / constant.square().sum(-1, keepdim=True) / attention.scale / length
        attention.to_k.weight[:, 0] = start * rearrange(along, "h d -> (h d)")
        attention.to_v.weight[:, 0] = 0
