"""The page's files: what they hide, and what the key says of them."""

import json
import re

import pytest
from PIL import Image

from evaluation.preference import build, result
from evaluation.preference.build import build_page
from evaluation.preference.key import QUESTIONS, Key, PreferenceError

from .experiment import ARMS, DRAWN, PAIRS, SCALE, A, B, pairs_of, pixels, preferring, write


def test_nothing_in_the_page_names_an_arm_or_the_number_of_a_caption(page):
    files = [path for path in page.rglob("*") if path.is_file()]
    told = b"".join(path.read_bytes() + str(path.relative_to(page)).encode() for path in files)
    assert len(files) == 2 * PAIRS + 4
    assert all(arm.encode() not in told for arm in ARMS)
    assert not re.search(rb"\d{6}\.png", told)
    assert all(pair.keys() == {"id", "caption"} for pair in pairs_of(page))


def test_the_template_has_no_word_that_is_an_arm():
    told = "".join(path.read_text() for path in build.TEMPLATE.iterdir())
    assert not re.search(r"\b(cfg|default|paper|authors|matched)\b", told)


def test_the_key_tells_which_picture_is_whose(out, page, key):
    captions = json.loads((out / "captions.json").read_text())
    for pair in pairs_of(page):
        index = key.index[pair["id"]]
        assert pair["caption"] == captions[index]
        for side, arm in (("left", key.left[pair["id"]]), ("right", key.other(key.left[pair["id"]]))):
            shown = pixels(page / "pictures" / f"{pair['id']}-{side}.png")
            assert shown == pixels(out / "images" / arm / "7.5" / f"{index:06d}.png")


def test_each_arm_is_on_the_left_in_half_of_the_pairs_at_random(key):
    sides = list(key.left.values())
    assert sides.count(A) == sides.count(B) == PAIRS / 2
    assert len({tuple(sides[start : start + 2]) for start in range(0, PAIRS, 2)}) > 2


def test_captions_are_drawn_without_repeats(key):
    assert len(set(key.index.values())) == PAIRS
    assert list(key.index.values()) != sorted(key.index.values())


def test_the_seed_and_the_pictures_decide_the_page(out, page):
    first = page.with_name("page.key.json").read_text()
    build_page(out, ARMS, SCALE, PAIRS, 0, out / "again")
    build_page(out, ARMS, SCALE, PAIRS, 1, out / "other")
    assert (out / "again.key.json").read_text() == first
    assert not Key.read(out / "other.key.json").left.keys() & json.loads(first)["left"].keys()
    for path in (out / "images" / A / "7.5").iterdir():
        Image.new("RGB", (16, 12)).save(path)
    build_page(out, ARMS, SCALE, PAIRS, 0, out / "redrawn")
    assert not Key.read(out / "redrawn.key.json").left.keys() & json.loads(first)["left"].keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": DRAWN + 1}, "1 to 30 pairs"),
        ({"pairs": 0}, "1 to 30 pairs"),
        ({"scale": 3.0}, f"{B} at γ 7.5, {A} at γ 7.5"),
        ({"arms": (A, "unknown")}, "images of unknown"),
        ({"arms": (A, A)}, "two arms"),
    ],
)
def test_a_page_that_cannot_be_made_says_why(out, change, said):
    with pytest.raises(PreferenceError, match=said):
        build_page(**{"out": out, "arms": ARMS, "scale": SCALE, "pairs": 5, "seed": 0, "to": out / "page"} | change)
    assert not (out / "page").exists()


def test_a_page_and_a_key_are_never_overwritten(out, page):
    with pytest.raises(PreferenceError, match="new or empty folder"):
        build_page(out, ARMS, SCALE, PAIRS, 0, page)
    (out / "page.key.json").rename(out / "fresh.key.json")
    with pytest.raises(PreferenceError, match="no key yet"):
        build_page(out, ARMS, SCALE, PAIRS, 0, out / "fresh")


def test_pictures_that_differ_in_size_are_refused(out):
    Image.new("RGB", (16, 16)).save(out / "images" / A / "7.5" / "000003.png")
    with pytest.raises(PreferenceError, match="16×16 and 16×12 at 000003.png"):
        build_page(out, ARMS, SCALE, DRAWN, 0, out / "page")
    assert not (out / "page").exists()


def test_the_page_asks_the_questions_that_are_counted():
    asked = re.findall(r'data-question="(\w+)"', (build.TEMPLATE / "index.html").read_text())
    assert asked == list(QUESTIONS)


def test_both_commands_from_pictures_to_table(out, capsys):
    build.main([str(out), "--arms", *ARMS, "--scale", "7.5", "--pairs", "4", "--to", str(out / "page")])
    key = Key.read(out / "page.key.json")
    voter = write(out, key, "v", preferring(key, dict.fromkeys(key.left, (B, B))))
    capsys.readouterr()
    result.main([str(out / "page.key.json"), str(voter), "--to", str(out / "result")])
    printed = capsys.readouterr().out
    assert (out / "result" / "preference.md").read_text() == printed
    assert "| overall | 0 | 4 | 0 | 0.0% | 0.0% to 49.0% | – | p = 0.12 |" in printed
    figures = json.loads((out / "result" / "preference.json").read_text())
    assert figures["questions"]["quality"]["losses"] == 4 and figures["arms"] == list(ARMS)


def test_a_mistake_ends_a_command_with_one_line(out, capsys):
    with pytest.raises(SystemExit, match="2"):
        build.main([str(out), "--arms", *ARMS, "--scale", "9", "--to", str(out / "page")])
    with pytest.raises(SystemExit, match="2"):
        result.main([str(out / "page.key.json"), str(out / "votes.json")])
    assert "expected images of" in (said := capsys.readouterr().err) and "Traceback" not in said
