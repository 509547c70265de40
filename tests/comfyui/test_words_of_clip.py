"""Words, phrases, weights and legends on the tokens of ComfyUI's own SD 1 and SDXL tokenizers."""

import pytest
import torch

from scfg_core import Prompt, SettingsError, labels_of, parse_weights
from scfg_core.hosts.comfyui.prompts import START_TOKENS, WORDS
from scfg_core.run.evaluation import Evaluation
from scfg_core.run.phrases import SEPARATORS, phrases_of
from scfg_core.run.record import Run
from scfg_core.run.regions import known_words
from views import owners_of, segmentation
from views.palette import END, PADDING, START

CHUNK = 77
FULL = "w " * 74
"""Seventy-four words of a token each: the next one is the last of the first chunk."""


class Clip:
    """A CLIP that can only cut text."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def tokenize(self, text, return_word_ids=False):
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with an embedding of three vectors, for each of SDXL's encoders and for SD 1's."""
    place = tmp_path_factory.mktemp("embeddings")
    vectors = {"clip_l": torch.zeros(3, 768), "clip_g": torch.zeros(3, 1280)}
    torch.save(vectors, place / "style.pt")
    return str(place)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def clip(request, folder):
    from comfy.sd1_clip import SD1Tokenizer
    from comfy.sdxl_clip import SDXLTokenizer

    return Clip({"sd1": SD1Tokenizer, "sdxl": SDXLTokenizer}[request.param](embedding_directory=folder))


@pytest.fixture(scope="module")
def prompt_of(clip):
    """The prompt that S-CFG Text Encode describes, with the labels of a run."""
    from scfg_core.hosts.comfyui.tokens import words_of_prompt

    def prompt_of(text: str) -> Prompt:
        said = words_of_prompt(clip, text)
        texts, words = said[WORDS]
        return Prompt.plain("cond", len(texts), said[START_TOKENS], texts, words)

    return prompt_of


def words_of(prompt: Prompt) -> list[str]:
    return [text for text, _ in prompt.words_with_labels()]


def legend_of(prompt: Prompt) -> dict[str, tuple[int, ...]]:
    return {owner.text: owner.labels for owner in owners_of(Run(prompts=[prompt]))[:-1]}


def test_an_empty_prompt_is_not_one_whose_words_are_unknown(prompt_of):
    with pytest.raises(SettingsError, match="expected a prompt with words, got an empty one: write some"):
        known_words("cat", [prompt_of("")])
    with pytest.raises(SettingsError, match="expected a prompt with known words, got numbered tokens"):
        known_words("cat", [prompt_of(""), Prompt.plain("cond", CHUNK)])


@pytest.mark.parametrize("mark", sorted(SEPARATORS))
def test_every_separator_reaches_the_words_of_a_prompt(prompt_of, mark):
    found = phrases_of([prompt_of(f"red star{mark} blue moon")])
    assert [phrase.text for phrase in found] == ["red star", "blue moon"]


@pytest.mark.parametrize(
    ("text", "words", "phrases"),
    [
        ("a (red hat:1.2)", ["a", "red", "hat"], ["red hat", "hat"]),
        ("((red)) (hat:0.5)", ["red", "hat"], ["red hat"]),
        (
            "a (red (felt hat:1.4):1.2) on (blue:0.8) sky",
            ["a", "red", "felt", "hat", "on", "blue", "sky"],
            ["blue sky"],
        ),
        (r"a \(real\) cat", ["a", "(", "real", ")", "cat"], ["real", "(real)"]),
        ("[dull] cat", ["[", "dull", "]", "cat"], ["dull"]),
        ("A RED Cat", ["a", "red", "cat"], ["Red CAT"]),
    ],
)
def test_weights_are_no_words_and_words_within_them_are_found(prompt_of, text, words, phrases):
    prompt = prompt_of(text)
    assert words_of(prompt) == words
    for phrase in phrases:
        assert labels_of(phrase, [prompt]), phrase
    assert labels_of("1.2", [prompt]) == ()
    assert sorted(label for _, labels in prompt.words_with_labels() for label in labels) == list(
        range(1, 1 + sum(len(labels) for _, labels in prompt.words_with_labels()))
    )


def test_a_phrase_is_found_across_the_border_of_two_chunks(prompt_of):
    prompt = prompt_of(FULL + "red hat")
    assert prompt.num_tokens == 2 * CHUNK
    assert labels_of("red", [prompt]) == (CHUNK - 2,) and labels_of("hat", [prompt]) == (CHUNK + 1,)
    assert labels_of("red hat", [prompt]) == (CHUNK - 2, CHUNK + 1)


def test_a_word_that_comes_again_in_a_later_chunk_is_found_twice(prompt_of):
    prompt = prompt_of("cat " + FULL + "cat " * 80 + "dog")
    assert prompt.num_tokens == 3 * CHUNK
    assert len(labels_of("cat", [prompt])) == 81
    (dog,) = labels_of("dog", [prompt])
    assert dog > 2 * CHUNK


@pytest.mark.parametrize("emoji", ["😀", "👩‍🚀", "❤️", "🇯🇵"])
def test_an_emoji_is_written_as_it_is_and_can_be_asked_for(prompt_of, emoji):
    prompt = prompt_of(f"a cat {emoji} smiles")
    assert "".join(words_of(prompt)) == f"acat{emoji}smiles"
    assert labels_of(emoji, [prompt]) and labels_of(f"cat {emoji}", [prompt])


@pytest.mark.parametrize(
    "html", ["<b>bold</b> cat", '<img src="x" onerror="y"> cat', "cats &amp; dogs", "1 < 2 > 0"]
)
def test_html_is_text(prompt_of, html):
    prompt = prompt_of(html)
    assert "".join(words_of(prompt)) == html.replace(" ", "")
    assert all(labels_of(word, [prompt]) for word in html.split())


@pytest.mark.parametrize("text", ["a <start> of a race", "the <end>", "<pad> thai", "</w> cat"])
def test_what_looks_like_our_names_of_special_tokens_is_text_too(prompt_of, text):
    prompt = prompt_of(text)
    assert "".join(words_of(prompt)) == text.replace(" ", "")
    (starts,) = (labels for name, labels in legend_of(prompt).items() if name == "no word (start)")
    assert starts == (0,)


def test_an_embedding_is_one_word_of_its_name(prompt_of):
    prompt = prompt_of("a cat, embedding:style (embedding:style:1.3) dog")
    assert words_of(prompt).count("style") == 2
    assert len(labels_of("style", [prompt])) == 6
    assert labels_of("dog", [prompt]) and not any("embedding" in word for word in words_of(prompt))


def test_a_legend_has_phrases_and_every_label_once(prompt_of):
    prompt = prompt_of("A (red hat:1.2), on the photorealistic grass")
    legend = legend_of(prompt)
    assert list(legend)[:4] == ["no word (start)", "a red", "hat", "on the photorealistic"]
    assert {"grass", "no word (end)", "no word (padding)"} <= legend.keys()
    assert sorted(label for labels in legend.values() for label in labels) == list(range(CHUNK))


def test_the_starts_and_ends_of_all_chunks_are_one_entry_each(prompt_of):
    legend = legend_of(prompt_of(FULL + "red hat"))
    assert legend["no word (start)"] == (0, CHUNK)
    assert legend["no word (end)"][0] == CHUNK - 1 and len(legend["no word (end)"]) == 2
    owners = {owner.text: owner.colour for owner in owners_of(Run(prompts=[prompt_of_words("a")]))}
    assert (owners["no word (start)"], owners["no word (end)"], owners["no word (padding)"]) == (
        START,
        END,
        PADDING,
    )


def prompt_of_words(*words: str) -> Prompt:
    texts = ("<start>", *words, "<end>", "<pad>")
    return Prompt.plain("cond", len(texts), (0,), texts, (-1, *range(len(words)), -1, -1))


@pytest.mark.parametrize("text", ["a <b>cat</b> 😀 and a café", "赤い円 embedding:style", FULL + "red hat"])
def test_a_segmentation_of_such_words_is_drawn(prompt_of, text):
    prompt = prompt_of(text)
    labels = (torch.arange(16 * 16) % prompt.num_tokens).reshape(1, 16, 16).to(torch.int16)
    ones = torch.ones(1, 16, 16)
    run = Run(prompts=[prompt], schedule=(1.0, 0.0))
    run.add(Evaluation(0, 1.0, 5.0, labels, ones > 0, ones, ones, ones, ones))
    run.close()
    picture = segmentation(run)
    assert picture.shape[1] > 300 and picture[:, 280:].std() > 5


def test_word_weights_reach_the_words_of_the_prompt(prompt_of):
    prompt = prompt_of("a (Red Hat:1.2), a café and 10,000 cats")
    for entry in parse_weights("red hat: 1.3, CAFÉ: 0.5\ncats: 2").entries:
        assert labels_of(entry.word, [prompt]), entry.word
