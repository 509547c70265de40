"""The words that S-CFG Text Encode sends along, read off the host's own tokenizers."""

import pytest

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
