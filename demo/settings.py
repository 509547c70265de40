"""How the demo model is trained: one frozen object, one row of values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Training:
    """Every number of a run. A resumed run takes `steps` and the learning rates from here, not from its past.

    steps: of the whole run; warmup, cooldown: linear ramps at both ends, in steps.
    matrix_rate: Muon's step size, for the matrices and kernels inside the network; other_rate: AdamW's, for
    norms, biases, embeddings, and the first and last layers.
    attention_decay: weight decay of the matrices that make queries and keys. At 0.1 the attention hardens and
    its maps lose their meaning; at 0.5 it stays soft and they gain it.
    least_share, most_rest, share_weight: see `unet.unfair_shares`; share_weight multiplies it in the loss.
    noise_mean, noise_spread: t/1000 is the logistic of a normal with these; uniform_share of all t is uniform
    instead. empty_prompts: share of captions replaced by "".
    start_logit: where the attention to START begins; END and PAD stay at 0, words begin below it.
    """

    steps: int = 3000
    warmup: int = 100
    cooldown: int = 1850
    batch: int = 32
    matrix_rate: float = 0.02
    other_rate: float = 2e-3
    momentum: float = 0.95
    attention_decay: float = 0.5
    least_share: float = 0.3
    most_rest: float = 0.15
    share_weight: float = 1.0
    clip: float = 1.0
    noise_mean: float = 0.2
    noise_spread: float = 1.0
    uniform_share: float = 0.25
    noise_bins: int = 16
    empty_prompts: float = 0.12
    start_logit: float = 2.0
    ema: float = 0.999
    seed: int = 2404
    save_every: int = 250
    report_every: int = 50
