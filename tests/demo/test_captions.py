"""A prompt reads back as what it asks for."""

import pytest

from demo.captions import parse
from demo.world import draw


def test_a_caption_reads_back_as_it_was_meant():
    for told in draw(300, seed=7).descriptions:
        assert parse(told.caption.split()) == told


@pytest.mark.parametrize("text", ["red circle", "a circle", "a red circle on the green background", "the left", ""])
def test_what_is_no_caption_is_not_judged(text):
    assert parse(text.split()) is None
