"""How the demo model is trained: one frozen object a stage, one row of values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """What every stage has.

    steps, seconds: the stage ends with whichever comes first; its learning rates fall by the same measure.
    warmup: steps of a linear rise; cooldown: the share of the stage in which the rates fall linearly to `floor`.
    clip: largest norm of the gradient. averaging: the exported weights are averages over about the last
    1 / averaging part of the stage. uniform_share: this share of all noise levels is uniform; for the others
    t/1000 is the logistic of a normal with noise_mean and noise_spread.
    least_share, most_rest, share_weight: see `attention.unfair_shares`; share_weight multiplies it in the loss.
    """

    steps: int = 1944
    seconds: float = float("inf")
    batch: int = 512
    warmup: int = 150
    cooldown: float = 0.55
    floor: float = 0.01
    clip: float = 1.0
    averaging: float = 0.05
    uniform_share: float = 0.25
    noise_mean: float = 0.2
    noise_spread: float = 1.0
    noise_bins: int = 16
    least_share: float = 0.3
    most_rest: float = 0.15
    share_weight: float = 1.0
    seed: int = 2404
    save_every: int = 100
    report_every: int = 20


@dataclass(frozen=True)
class FirstTraining(Schedule):
    """From nothing, on captions alone: 265 seconds of an H100.

    matrix_rate: Muon's step size, for the matrices and kernels inside the network; other_rate: AdamW's, for
    norms, biases, embeddings, and the first and last layers.
    attention_decay: weight decay of the matrices that make queries and keys. At 0.1 the attention hardens and
    its maps lose their meaning; at 0.5 it stays soft and they gain it.
    empty_prompts: share of captions replaced by "".
    start_logit: where the attention to START begins; END and PAD stay at 0, words begin below it.
    """

    matrix_rate: float = 0.02
    other_rate: float = 2e-3
    momentum: float = 0.95
    attention_decay: float = 0.5
    empty_prompts: float = 0.12
    start_logit: float = 2.0


@dataclass(frozen=True)
class StartTraining(Schedule):
    """The key of START alone, by true masks of training scenes: four minutes of one CPU thread.

    rate: Adam's. contrast: the map of START counts as decided where it is this far from its mean.
    word_margin, word_weight: where words are said, START is to stay this far below the strongest of them.
    most_noise: noise levels t are uniform below it; masks are taught below most_taught.
    """

    steps: int = 390
    batch: int = 12
    warmup: int = 10
    cooldown: float = 0.5
    floor: float = 0.02
    averaging: float = 0.1
    seed: int = 3
    rate: float = 6e-3
    contrast: float = 0.006
    word_margin: float = 0.001
    word_weight: float = 1.0
    most_noise: int = 850
    most_taught: int = 700


@dataclass(frozen=True)
class SecondTraining(Schedule):
    """All weights, on captions that are wrong now and then, while the maps of the words and END are held to the
    first model's: three quarters of an hour of one CPU thread.

    empty_rows: rows of each batch with the empty prompt, on which START is taught by true masks.
    rate, decay: AdamW's; the decay is for the matrices that make queries and keys.
    wrong_colours, wrong_nouns, wrong_backdrops: odds that such a word is drawn anew.
    hold_weight, hold_noise: the maps are those of the first model on the same scene at noise level hold_noise or,
    where there is more noise, at the same level.
    foreground_weight: of START where nothing is said; contrast, word_margin, word_weight, most_taught: as in
    `StartTraining`.
    """

    steps: int = 900
    batch: int = 24
    warmup: int = 20
    cooldown: float = 0.6
    floor: float = 0.02
    averaging: float = 0.1
    uniform_share: float = 0.5
    seed: int = 17
    empty_rows: int = 8
    rate: float = 2e-4
    decay: float = 0.3
    wrong_colours: float = 0.12
    wrong_nouns: float = 0.08
    wrong_backdrops: float = 0.12
    hold_weight: float = 6.0
    hold_noise: int = 500
    foreground_weight: float = 0.3
    contrast: float = 0.01
    word_margin: float = 0.002
    word_weight: float = 0.5
    most_taught: int = 750


@dataclass(frozen=True)
class FlowTraining(Schedule):
    """A transformer from nothing, by flow matching, on captions alone: no mask and no share of the attention is
    taught. Its text encoder is that of the demo model and stays as it is. The values are meant for five minutes
    of a GPU; one CPU thread takes depth 4 and batches of 32.

    depth: blocks, and heads of 64 channels; the width is 64 · depth.
    matrix_rate: Muon's step size, for the matrices of the blocks; other_rate: AdamW's, for everything else.
    empty_prompts: share of captions replaced by "".
    """

    steps: int = 4000
    batch: int = 256
    warmup: int = 100
    depth: int = 6
    matrix_rate: float = 0.02
    other_rate: float = 2e-3
    momentum: float = 0.95
    empty_prompts: float = 0.12
