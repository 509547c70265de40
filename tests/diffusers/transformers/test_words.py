"""Words of every family, from the prompt through the pipeline's own tokenizers and text encoders."""

import string
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from scfg_core import Note, Prompt, ScfgError, Settings, labels_of, parse_weights, scfg

from ..tiny import make as make_unet
from ..tiny import sample as sample_unet
from .tiny import KINDS, WIDTH, make

PROMPT = "a red-hat fox, don't smile"
MARKS = "-,'.<>:;"
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def clip(width: int, cls: type = CLIPTextModelWithProjection) -> tuple[CLIPTokenizer, Any]:
    tokens = [*string.ascii_lowercase, *MARKS]
    tokens = [*tokens, *(f"{token}</w>" for token in tokens), "<|startoftext|>", "<|endoftext|>"]
    last = len(tokens) - 1
    config = CLIPTextConfig(
        vocab_size=len(tokens), hidden_size=width, projection_dim=8, intermediate_size=8, num_attention_heads=2,
        num_hidden_layers=2, bos_token_id=last - 1, eos_token_id=last, pad_token_id=last,
    )  # fmt: skip
    vocabulary = {token: place for place, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)
    return tokenizer, cls(config).eval()


def t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁red", *string.ascii_letters, *MARKS]
    tokenizer = T5Tokenizer(vocab=[(piece, -1.0) for piece in pieces], extra_ids=0, model_max_length=512)
    config = T5Config(vocab_size=128, d_model=WIDTH, d_kv=8, d_ff=8, num_layers=1, num_heads=2)
    return tokenizer, T5EncoderModel(config).eval()


def qwen() -> tuple[Qwen2Tokenizer, Qwen3Model]:
    vocabulary = {
        piece: place for place, piece in enumerate([*sorted(ByteLevel.alphabet()), "Ġr", "<|endoftext|>"])
    }
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[("Ġ", "r")], padding_side="right", chat_template=CHAT)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return tokenizer, Qwen3Model(_language_model()).eval()


def gemma() -> tuple[GemmaTokenizer, Qwen3Model]:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", *string.ascii_letters, *MARKS]
    tokenizer = GemmaTokenizer(vocab={piece: place for place, piece in enumerate(pieces)}, merges=[])
    return tokenizer, Qwen3Model(_language_model()).eval()


def _language_model() -> Qwen3Config:
    return Qwen3Config(
        vocab_size=512, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    )  # fmt: skip


def with_encoders(name: str) -> Any:
    """The pipeline of this kind, with tokenizers and tiny random text encoders."""
    pipe = make(name)
    torch.manual_seed(1)
    parts: dict[str, Any] = {}
    if name == "SD 3":
        for suffix in ("", "_2"):
            parts[f"tokenizer{suffix}"], parts[f"text_encoder{suffix}"] = clip(8)
        parts["tokenizer_3"], parts["text_encoder_3"] = t5()
        parts["tokenizer_max_length"] = 77
    elif name == "Flux":
        parts["tokenizer"], parts["text_encoder"] = clip(16, CLIPTextModel)
        parts["tokenizer_2"], parts["text_encoder_2"] = t5()
        parts["tokenizer_max_length"] = 77
    else:
        encoders = {"Chroma": t5, "Qwen-Image": qwen, "Z-Image": qwen, "Lumina 2": gemma}
        parts["tokenizer"], parts["text_encoder"] = encoders[name]()
    for part, value in parts.items():
        setattr(pipe, part, value)
    return pipe


COLUMNS = {
    "SD 3": ("text_encoder", "text_encoder_3"),
    "Flux": ("text_encoder_2",),
}
"""Text encoders whose tokens are columns, where there are several."""


def prompted(name: str, pipe: Any, **attach: Any) -> tuple[Any, dict[str, Tensor]]:
    """The run of a prompt in words, and the ids that every text encoder was given first."""
    seen: dict[str, Tensor] = {}
    handles = []
    for encoder in COLUMNS.get(name, ("text_encoder",)):

        def see(module: Any, args: Any, kwargs: Any, encoder: str = encoder) -> None:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            mask = kwargs.get("attention_mask")
            kept = ids[0] if mask is None or name == "Chroma" else ids[0][mask[0].bool()]
            seen.setdefault(encoder, kept)

        handles.append(getattr(pipe, encoder).register_forward_pre_hook(see, with_kwargs=True))
    call = {
        key: value for key, value in KINDS[name].arguments().items() if "embeds" not in key and "mask" not in key
    }
    call |= {"prompt": PROMPT, "negative_prompt": "blurry"}
    if name in ("Chroma", "Flux"):
        call["max_sequence_length"] = 48
    with scfg(pipe, **KINDS[name].given | attach) as run:
        pipe(**call)
    for handle in handles:
        handle.remove()
    return run, seen


@pytest.mark.parametrize("name", list(KINDS))
def test_words_stand_where_the_text_encoder_was_given_them(name):
    pipe = with_encoders(name)
    run, seen = prompted(name, pipe, prompt=PROMPT)
    assert not run.notes and len(run.evaluations) == 3
    (prompt,) = run.prompts
    ids = torch.cat([seen[encoder] for encoder in seen])
    ids = ids[34:] if name == "Qwen-Image" else ids
    assert len(ids) == prompt.num_tokens
    tokenizers = {"SD 3": ["tokenizer"] * 77 + ["tokenizer_3"] * 256, "Flux": ["tokenizer_2"] * 48}.get(
        name, ["tokenizer"] * len(ids)
    )
    for word in ("a", "red", "-", "fox", "don", "smile"):
        labels = labels_of(word, [prompt])
        assert labels and all(prompt.roles[label] == "word" for label in labels)
        encoders = sorted({tokenizers[label] for label in labels})
        assert len(encoders) == (2 if name == "SD 3" else 1)
        for tokenizer in encoders:
            own = [int(ids[label]) for label in labels if tokenizers[label] == tokenizer]
            assert getattr(pipe, tokenizer).decode(own).replace(" ", "") == word
    assert labels_of("red-hat fox", [prompt]) and not labels_of("assistant", [prompt])
    owned = {prompt.texts[place] for place in prompt.owners}
    assert "<template>" not in owned or KINDS[name].starts, owned
    template = {role for role, text in zip(prompt.roles, prompt.texts, strict=True) if text == "<template>"}
    assert template <= {"template", "start"}
    assert bool(template) == (name in ("Qwen-Image", "Z-Image", "Lumina 2"))


@pytest.mark.parametrize("name", list(KINDS))
def test_without_the_text_its_columns_have_no_names(name):
    run, _ = prompted(name, with_encoders(name))
    assert not run.notes and set(run.prompts[0].texts) == {""} and len(run.evaluations) == 3


def test_a_weighted_word_changes_its_region_alone():
    plain, _ = prompted("Flux", with_encoders("Flux"), prompt=PROMPT)
    before = plain.evaluations[0]

    def region(labels: tuple[int, ...]) -> Tensor:
        return torch.isin(before.labels, torch.tensor(labels, dtype=before.labels.dtype))

    word, labels = max(plain.prompts[0].words_with_labels(), key=lambda found: int(region(found[1]).sum()))
    settings = Settings(smooth_ratio=False, cap="none")
    unweighted, weighted = (
        prompted("Flux", with_encoders("Flux"), prompt=PROMPT, settings=settings, word_weights=weights)[0]
        for weights in (None, parse_weights(f"{word}: 0", "word"))
    )
    ratios, mine = [run.evaluations[0].ratio for run in (unweighted, weighted)], region(labels)
    assert mine.any() and torch.equal(weighted.evaluations[0].labels, before.labels)
    assert (ratios[1][mine] == 0).all() and torch.equal(ratios[0][~mine], ratios[1][~mine])


def test_words_of_a_unet_and_what_cannot_be_named():
    pipe = make_unet("SD 1.5")
    with scfg(pipe, prompt="a cat") as run:
        sample_unet(
            pipe, "SD 1.5", prompt="a cat", negative_prompt="bad", prompt_embeds=None, negative_prompt_embeds=None
        )
    assert not run.notes
    assert run.prompts[0].texts[:6] == ("<start>", "a", "cat", "cat", "cat", "<end>")
    assert run.prompts[0].words_with_labels() == [("a", (1,)), ("cat", (2, 3, 4))]
    with pytest.raises(ScfgError, match="tokenizer"):
        scfg(make("Flux"), guidance_scale=4, prompt="a cat")


def test_a_described_prompt_of_another_length_is_noted():
    pipe, kind = make("Flux"), KINDS["Flux"]
    prompt = Prompt.plain("cond", 5, (), ("a", "red", "hat", ",", "fox"), range(5))
    with scfg(pipe, **kind.given, prompt=prompt) as run:
        pipe(**kind.arguments())
    assert run.notes == [Note.OTHER_LENGTH.text.format(expected=5, given=12)]
    fitting = Prompt.plain("cond", 12, (3,), tuple("abcdefghijkl"), tuple(range(12)))
    with scfg(pipe, **kind.given, prompt=fitting) as run:
        pipe(**kind.arguments())
    assert run.prompts == [fitting] and not run.notes
    with scfg(pipe, **kind.given, start_tokens=(0,)) as run:
        pipe(**kind.arguments())
    assert run.prompts[0].start_tokens == (0,) and not run.evaluations[0].foreground.all()
