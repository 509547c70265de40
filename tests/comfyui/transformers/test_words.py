"""Words of every family whose tokenizer comes with the host; their columns, masks and weights."""

from importlib import import_module
from typing import Any

import pytest
import torch

from scfg_core import Grid, Run, Segmentation, Settings, WordWeight, WordWeights, labels_of
from scfg_core.hosts.comfyui.prompts import PromptReader
from scfg_core.hosts.comfyui.tokens import words_of_prompt
from scfg_core.run.phrases import phrases_of
from scfg_core.run.regions import word_mask

from .. import host
from ..expected import scfg
from .expected import sample
from .models import FAMILIES

TOKENIZERS = {
    "anima": ("anima", "AnimaTokenizer"),
    "cosmos": ("cosmos", "CosmosT5Tokenizer"),
    "klein": ("flux", "KleinTokenizer"),
    "flux1": ("flux", "FluxTokenizer"),
    "chroma": ("pixart_t5", "PixArtTokenizer"),
    "qwen": ("qwen_image", "QwenImageTokenizer"),
    "z_image": ("z_image", "ZImageTokenizer"),
    "sd3": ("sd3_clip", "SD3Tokenizer"),
    "aura": ("aura_t5", "AuraT5Tokenizer"),
    "hunyuan": ("hunyuan_image", "HunyuanImageTokenizer"),
    "kandinsky": ("kandinsky5", "Kandinsky5TokenizerImage"),
}
COLUMNS = {"anima": "t5xxl", "flux1": "t5xxl", "sd3": "both"}
"""Families with several encoders, and which of them gives the text columns."""
PROMPT = "A red-hat fox, don't smile at the photorealistic hippopotamus"
CUT = {"qwen": 34, "hunyuan": 34, "kandinsky": 41}
"""Tokens at the beginning that the family's encoder cuts off, for the template of the host."""


class Clip:
    """A CLIP that can only cut text."""

    def __init__(self, name: str) -> None:
        file, cls = TOKENIZERS[name]
        self.tokenizer = getattr(import_module(f"comfy.text_encoders.{file}"), cls)()

    def tokenize(self, text: str, return_word_ids: bool = False) -> Any:
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)


def encoded(name: str, text: str, seed: int = 1) -> list:
    """A CONDITIONING of the family as its encoder makes it, with random vectors and our words."""
    clip, family = Clip(name), FAMILIES[name]
    tokens = clip.tokenize(text, return_word_ids=True)
    if name == "sd3":
        chunk = [*tokens["g"][0], *tokens["t5xxl"][0]]
    else:
        chunk = tokens[COLUMNS.get(name, next(iter(tokens)))][0]
    length = len(chunk) - CUT.get(name, 0)
    keys = words_of_prompt(clip, text)
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, length, family.width, generator=generator)
    padded = torch.tensor([token[2] == 0 for token in chunk])[len(chunk) - length :]
    padded[0] &= bool(text)  # of an empty prompt the end is left
    if name in ("aura", "cosmos"):
        context[:, padded] = 0
    if name == "klein":
        keys["attention_mask"] = (~padded).long()[None]
    if name == "anima":
        ids = torch.tensor([token[0] for token in chunk], dtype=torch.int)
        keys |= {"t5xxl_ids": ids, "t5xxl_weights": torch.ones(len(ids))}
    if name in ("sd3", "kandinsky"):
        keys |= family.keys(length)
    return host.conditioning(context, **keys)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("phrase", ["fox", "red-hat", "don't", "photorealistic", "photorealistic hippopotamus"])
def test_words_and_phrases_of_a_family_are_found(patcher, name, phrase):
    prompt = prompt_of(patcher, name, PROMPT)
    labels = labels_of(phrase, [prompt])
    assert labels and all(prompt.roles[label] == "word" for label in labels)
    if name == "sd3":
        assert any(label < 77 for label in labels) and any(label >= 77 for label in labels)
    assert labels_of("assistant", [prompt]) == ()
    assert labels_of("hat photo", [prompt]) == ()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_words_of_a_family_spell_the_prompt(patcher, name):
    spelled = "".join(text for text, _ in prompt_of(patcher, name, PROMPT).words_with_labels()).casefold()
    assert spelled.startswith(PROMPT.replace(" ", "").casefold())
    assert name == "sd3" or spelled == PROMPT.replace(" ", "").casefold()


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_empty_prompt_of_a_family_has_no_words(patcher, name):
    prompt = prompt_of(patcher, name, "")
    assert prompt.words_with_labels() == []
    padded = {"aura": 256, "cosmos": 512, "klein": 512, "anima": 512}
    assert 0 < len(prompt.owners) < 20 or name not in padded, "padding owns nothing, whatever else there is"
    assert bool(prompt.start_tokens) == (FAMILIES[name].starts > 0)


@pytest.mark.parametrize("text", ["a café in são paulo", "赤い円", "a 😀 smile", "красный круг"])
@pytest.mark.parametrize("name", ["qwen", "z_image", "klein"])
def test_words_of_every_alphabet_can_be_read_in_qwens_pieces(patcher, name, text):
    prompt = prompt_of(patcher, name, text)
    assert "".join(word for word, _ in prompt.words_with_labels()) == text.replace(" ", "")
    assert all(labels_of(word, [prompt]) for word in text.split())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("一只白色的猫坐在草地上，天空是蓝色的", ["白色的", "猫", "天空", "蓝色", "白色的猫"]),
        ("草の上の白い猫", ["猫", "草"]),
    ],
)
@pytest.mark.parametrize("name", ["qwen", "z_image", "klein"])
def test_words_can_be_named_where_a_language_writes_no_spaces(patcher, name, text, words):
    prompt = prompt_of(patcher, name, text)
    labels = [labels_of(word, [prompt]) for word in words]
    assert all(labels)
    assert len(labels[0]) < len(prompt.owners) / 2
    assert [label for label in labels[1] if label in labels[0]] == []


def prompt_of(patcher, name: str, text: str):
    """The prompt as a run reads it off its conditioning."""
    from comfy.sampler_helpers import convert_cond
    from comfy.samplers import encode_model_conds

    from scfg_core.hosts.comfyui.models import architecture_of

    model = patcher(name).model
    conds = convert_cond(encoded(name, text))
    noise = FAMILIES[name].latent(10, 14)["samples"]
    with torch.inference_mode():
        (cond,) = encode_model_conds(model.extra_conds, conds, noise, torch.device("cpu"), "positive")
    return PromptReader(architecture_of(model.diffusion_model)).read("cond", cond, cond)


@pytest.mark.parametrize("name", ["anima", "klein", "qwen", "sd3", "z_image", "chroma"])
def test_word_weights_and_masks_work_in_a_family(patcher, name):
    texts = [encoded(name, PROMPT), encoded(name, "blurry", seed=2)]
    latent = FAMILIES[name].latent(16, 16)
    plain = watched(patcher(name), texts, latent, WordWeights())
    (prompt,) = plain.prompts
    word, labels = max(prompt.words_with_labels(), key=lambda found: owned(plain, found[1]).sum())
    weighted = watched(patcher(name), texts, latent, WordWeights((WordWeight(word, 0.0),), "word"))
    before, after, mine = plain.evaluations[0], weighted.evaluations[0], owned(plain, labels)
    assert mine.any(), "nothing to see: no word owns a patch"
    assert torch.equal(before.labels, after.labels)
    assert (after.ratio[mine] == 0).all() and torch.equal(before.ratio[~mine], after.ratio[~mine])
    found = Segmentation(before.labels.long(), before.foreground)
    mask = word_mask(found, plain.prompts, [word], found.grid, scope="word")
    assert torch.equal(mask.bool(), mine)


@pytest.mark.parametrize("name", ["anima", "klein", "sd3"])
def test_a_weight_acts_on_a_phrase_in_a_family(patcher, name):
    texts = [encoded(name, PROMPT), encoded(name, "blurry", seed=2)]
    latent = FAMILIES[name].latent(16, 16)
    plain = watched(patcher(name), texts, latent, WordWeights(), steps=1)
    first = phrases_of(plain.prompts)[0].text
    assert "".join(filter(str.isalpha, first)) == "redhatfox"
    weighted = watched(patcher(name), texts, latent, WordWeights.of({"fox": 0.0}), steps=1)
    (before,), (after,) = plain.evaluations, weighted.evaluations
    grid = Grid(*before.labels.shape[1:])
    mine = word_mask(plain.mean_scores(), plain.prompts, ["fox"], grid).bool()
    assert mine.any() and not mine.all()
    assert (after.ratio[mine] == 0).all() and torch.equal(before.ratio[~mine], after.ratio[~mine])


def watched(
    model: Any, texts: list[list], latent: dict[str, torch.Tensor], weights: WordWeights, **keys: Any
) -> Run:
    guided = scfg(model, Settings(smooth_ratio=False), word_weights=weights)
    sample(guided.model, *texts, latent, **keys)
    assert "no word" not in guided.line
    return guided.run


def owned(run: Run, labels: tuple[int, ...]) -> torch.Tensor:
    """Patches of the first evaluation that have one of the labels."""
    found = run.evaluations[0].labels
    return torch.isin(found, torch.tensor(labels, dtype=found.dtype))
