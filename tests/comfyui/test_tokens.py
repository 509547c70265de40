"""The words that S-CFG Text Encode sends along, read off the host's own tokenizers."""

import pytest

from scfg_core import Prompt, labels_of
from scfg_core.hosts.comfyui.prompts import START_TOKENS, WORDS


class Clip:
    """A CLIP that can only cut text."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def tokenize(self, text, return_word_ids=False):
        return self.tokenizer.tokenize_with_weights(text, return_word_ids)


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def clip(request):
    from comfy.sd1_clip import SD1Tokenizer
    from comfy.sdxl_clip import SDXLTokenizer

    return Clip({"sd1": SD1Tokenizer, "sdxl": SDXLTokenizer}[request.param](embedding_directory=None))


def words(clip, text):
    from scfg_core.hosts.comfyui.tokens import words_of_prompt

    said = words_of_prompt(clip, text)
    return list(zip(*said[WORDS], strict=True)), said[START_TOKENS]


def test_sub_tokens_are_joined_to_whole_words_without_brackets(clip):
    spelled, starts = words(clip, "a (photorealistic:1.2) hippopotamus")
    assert spelled[:8] == [
        ("<start>", -1),
        ("a", 0),
        ("photorealistic", 1),
        ("photorealistic", 1),
        ("hippopotamus", 2),
        ("hippopotamus", 2),
        ("hippopotamus", 2),
        ("<end>", -1),
    ]
    assert {text for text, _ in spelled[8:]} == {"<pad>"}
    assert len(spelled) == 77 and starts == (0,)


def test_every_chunk_has_its_start_and_words_go_on(clip):
    spelled, starts = words(clip, "word " * 80)
    assert len(spelled) == 154 and starts == (0, 77)
    assert spelled[77] == ("<start>", -1)
    assert [number for _, number in spelled if number >= 0] == list(range(80))


def prompt_of(spelled):
    return Prompt.plain("cond", len(spelled), (0,), *zip(*spelled, strict=True))


@pytest.mark.parametrize("text", ["a café in são paulo", "赤い円", "красный круг", "a 😀 smile", "日本 and café"])
def test_words_of_every_alphabet_can_be_read_and_asked_for(clip, text):
    spelled, _ = words(clip, text)
    prompt = prompt_of(spelled)
    assert "".join(word for word, _ in prompt.words_with_labels()) == text.replace(" ", "")
    for word in text.split():
        assert labels_of(word, [prompt])


@pytest.mark.parametrize("phrase", ["red-hat", "don't", "10,000", "red-hat man", "it's 10,000"])
def test_a_phrase_is_found_however_the_encoder_cuts_it(clip, phrase):
    spelled, _ = words(clip, "a red-hat man, don't say it's 10,000")
    prompt = prompt_of(spelled)
    assert labels_of(phrase, [prompt])
    assert labels_of("hat 1", [prompt]) == ()


def test_an_embedding_keeps_its_name_across_chunks_and_a_missing_one_takes_nobodys(clip, tmp_path):
    import torch
    from comfy.sd1_clip import SD1Tokenizer

    for name, vectors in {"long": 20, "good": 2}.items():
        torch.save({"string_to_param": {"*": torch.zeros(vectors, 768)}}, tmp_path / f"{name}.pt")
    folder = Clip(SD1Tokenizer(embedding_directory=str(tmp_path)))
    spelled, _ = words(folder, "a " * 70 + "embedding:missing embedding:long cat embedding:good dog")
    names = [prompt_of(spelled).words_with_labels()[place][0] for place in range(70, 75)]
    assert [name for name in dict.fromkeys(names) if name != "a"][:4] == ["long", "cat", "good", "dog"]


def test_an_empty_prompt_has_no_words(clip):
    spelled, _ = words(clip, "")
    assert [text for text, _ in spelled[:3]] == ["<start>", "<end>", "<pad>"]


def test_markup_is_text(clip):
    spelled, _ = words(clip, '<b>"x"</b>')
    assert "".join({number: text for text, number in spelled if number >= 0}.values()) == '<b>"x"</b>'


def test_a_tokenizer_that_does_not_tell_words_gives_nothing():
    from scfg_core.hosts.comfyui.tokens import words_of_prompt

    class Plain:
        def tokenize(self, text, return_word_ids=False):
            return {"x": [[(1, 1.0), (2, 1.0)]]}

    assert words_of_prompt(Plain(), "a") == {}
